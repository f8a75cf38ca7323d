//! The only place that writes to the API server. Every write is a create, or compares and swaps: a replace at the
//! resourceVersion that was read, or a delete with UID and resourceVersion as preconditions.
//!
//! ```text
//! first ADD    create claim ─▶ write endpoint ─▶ verify claim (read again)
//! sticky ADD   write endpoint ∥ verify claim
//! release      drop from endpoint ─▶ read claim, then endpoint ─▶ mark claim ─▶ (rest) ─▶ read endpoint ─▶ delete claim
//! ```
//!
//! No read here comes from a cache.

mod claims;
mod endpoints;
mod leases;
mod pools;
mod write_gate;

use holdfast_core::id::PodName;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Node, Pod},
};
use kube::{Api, Client, Resource, api::ListParams, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;

use crate::{claim::IPClaim, endpoint::SpiderEndpoint};

pub use claims::{AcquireOutcome, ReleaseOutcome, VerifyOutcome};
pub use leases::Leases;
pub use write_gate::WriteGate;

/// How often a compare-and-swap is tried again before the caller is told to come back later.
const ATTEMPTS: usize = 5;

/// What a read or write at the API server can end with.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object changed since it was read. Read it again and decide anew.
    #[error("{what} was changed by somebody else at the same time")]
    Conflict {
        /// The object.
        what: String,
    },
    /// Another controller leads by now, or may: nothing was written.
    #[error("{what} was not written: this controller does not lead (any more)")]
    NotLeading {
        /// The object.
        what: String,
    },
    /// The API server refused or did not answer. Whether a write took place is not known.
    #[error("cannot {verb} {what}: {source}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        what: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
}

impl StoreError {
    fn new(verb: &'static str, what: impl Into<String>, source: kube::Error) -> Self {
        let what = what.into();
        match &source {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict { what },
            _ => Self::Api { verb, what, source: Box::new(source) },
        }
    }

    /// Whether somebody else's write came first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Reads and writes at the API server.
#[derive(Clone)]
pub struct Store {
    client: Client,
    claims: Api<IPClaim>,
    gate: WriteGate,
}

impl Store {
    /// A store behind `client`.
    pub fn new(client: Client) -> Self {
        Self { claims: Api::all(client.clone()), client, gate: WriteGate::always_open() }
    }

    /// Returns the same store, which writes only while `gate` is open.
    #[must_use]
    pub fn with_write_gate(self, gate: WriteGate) -> Self {
        Self { gate, ..self }
    }

    /// Fails while the gate is closed. Every write calls this right before its request.
    fn check_gate(&self, what: impl FnOnce() -> String) -> Result<(), StoreError> {
        if self.gate.is_open() { Ok(()) } else { Err(StoreError::NotLeading { what: what() }) }
    }

    /// Returns whether this store may write now.
    pub fn may_write(&self) -> bool {
        self.gate.is_open()
    }

    /// The client, for watches and events.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn endpoints(&self, namespace: &str) -> Api<SpiderEndpoint> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The pod, as the API server has it now.
    pub async fn pod(&self, pod: &PodName) -> Result<Option<Pod>, StoreError> {
        self.named(pod, "pod").await
    }

    /// The StatefulSet, as the API server has it now.
    pub async fn stateful_set(&self, set: &PodName) -> Result<Option<StatefulSet>, StoreError> {
        self.named(set, "StatefulSet").await
    }

    async fn named<K>(&self, name: &PodName, kind: &str) -> Result<Option<K>, StoreError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &name.namespace);
        api.get_opt(&name.name).await.map_err(|error| StoreError::new("read", format!("{kind} {name}"), error))
    }

    /// The pods of a node, as a cache of the API server has them: cheap, and as good as a watch.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<Pod>, StoreError> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let params = ListParams::default().fields(&format!("spec.nodeName={node}")).match_any();
        let list = api.list(&params).await;
        list.map(|list| list.items).map_err(|error| StoreError::new("list", format!("the pods of node {node}"), error))
    }

    /// The namespace, as the API server has it now.
    pub async fn namespace(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.get_opt(name).await.map_err(|error| StoreError::new("read", format!("namespace {name}"), error))
    }

    /// The node, as the API server has it now.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, StoreError> {
        let api: Api<Node> = Api::all(self.client.clone());
        api.get_opt(name).await.map_err(|error| StoreError::new("read", format!("node {name}"), error))
    }
}
