//! The errors of reads and writes at the API server.

/// The reason why a read or write at the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object changed since it was read. Read it again and decide again.
    #[error("{what} was changed by another writer at the same time")]
    Conflict {
        /// The object.
        what: String,
    },
    /// This controller is not the leader, or no longer: nothing was written.
    #[error("{what} was not written: this controller is not the leader")]
    NotLeading {
        /// The object.
        what: String,
    },
    /// The API server refused, or did not answer. A write may have taken place.
    #[error("cannot {verb} {what}: {source}")]
    Api {
        /// The operation.
        verb: &'static str,
        /// The object.
        what: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
}

impl StoreError {
    pub(super) fn new(verb: &'static str, what: impl Into<String>, source: kube::Error) -> Self {
        let what = what.into();
        match &source {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict { what },
            _ => Self::Api { verb, what, source: Box::new(source) },
        }
    }

    /// Returns the error of a replace. An object that was deleted since it was read is a conflict like any other change.
    pub(super) fn of_replace(what: impl Into<String>, source: kube::Error) -> Self {
        match source {
            kube::Error::Api(status) if status.code == 404 => Self::Conflict { what: what.into() },
            source => Self::new("update", what, source),
        }
    }

    /// Returns true where another writer came first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}
