//! The error object of the CNI specification.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// Error codes: those of the specification (section "Error") below 100, those of holdfast from 100 on.
pub mod code {
    /// The configuration's CNI version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration has an unsupported value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading stdin or writing stdout failed.
    pub const IO: u32 = 5;
    /// Decoding JSON failed.
    pub const DECODING: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A transient failure: the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail now, and containers that run may have limited connectivity.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// An internal error, described by the message.
    pub const INTERNAL: u32 = 100;
    /// The response on the agent's socket is not one of this agent's: another version of the agent, or another server.
    pub const BAD_RESPONSE: u32 = 101;
    /// The selected pools have no free address.
    pub const EXHAUSTED: u32 = 102;
    /// The request is stale: the pod has a newer sandbox, or its UID is not the API server's current one.
    pub const STALE: u32 = 103;
}

/// A CNI error: the body of the agent's 4xx and 5xx responses and, together with `cniVersion`, the error object that
/// the plugin prints on stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// One sentence; the kubelet shows it in the pod's events.
    pub msg: String,
    /// The underlying error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl CniError {
    /// Returns an error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: None }
    }

    /// Returns the error with `details` added.
    #[must_use]
    pub fn with_details(mut self, details: impl fmt::Display) -> Self {
        self.details = Some(details.to_string());
        self
    }

    /// Returns true if the same request may succeed later.
    pub fn is_retry(&self) -> bool {
        self.code == code::TRY_AGAIN
    }

    /// Returns the error object for stdout, in the given `cniVersion`.
    pub fn to_json(&self, version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Object<'a> {
            cni_version: &'a str,
            #[serde(flatten)]
            error: &'a CniError,
        }
        let object = Object { cni_version: version, error: self };
        // Strings and numbers always serialise; the literal avoids a panic path.
        serde_json::to_string(&object).unwrap_or_else(|_| r#"{"code":100,"msg":"internal error"}"#.to_owned())
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = self.details.as_ref().map_or(Cow::Borrowed(""), |details| Cow::Owned(format!(": {details}")));
        write!(f, "{}{details} (CNI error {})", self.msg, self.code)
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_object_has_the_fields_of_the_specification() {
        let error = CniError::new(code::TRY_AGAIN, "not now").with_details("connection refused");
        assert_eq!(
            error.to_json("1.0.0"),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"not now","details":"connection refused"}"#
        );
        assert_eq!(
            CniError::new(code::DECODING, "what").to_json("1.1.0"),
            r#"{"cniVersion":"1.1.0","code":6,"msg":"what"}"#
        );
    }
}
