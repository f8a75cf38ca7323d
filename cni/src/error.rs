//! The CNI error object.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// Error codes: the specification's (section "Error") below 100, ours above.
pub mod code {
    /// The configuration's CNI version is not one of ours.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration asks for something that is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading stdin or writing stdout failed.
    pub const IO: u32 = 5;
    /// What was read is not the JSON it should be.
    pub const DECODING: u32 = 6;
    /// The configuration is JSON, but not a usable network configuration.
    pub const INVALID_CONFIG: u32 = 7;
    /// Nothing is wrong for good: the runtime should try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: ADD would fail now, and containers that run may have limited connectivity.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// Something failed that is none of the above; the text says what.
    pub const INTERNAL: u32 = 100;
    /// The agent's answer was not understood: another version of it, or not the agent at all.
    pub const BAD_ANSWER: u32 = 101;
    /// No address is free in the pools that may be used.
    pub const EXHAUSTED: u32 = 102;
    /// The request is out of date: the pod has a newer sandbox, or is not the API server's current one.
    pub const STALE: u32 = 103;
}

/// A CNI error: what the agent answers with a 4xx or 5xx status, and, with `cniVersion` beside it, what the
/// plugin prints on stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// One sentence; it ends up in the pod's events.
    pub msg: String,
    /// More, for whoever looks closer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: None }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl fmt::Display) -> Self {
        self.details = Some(details.to_string());
        self
    }

    /// Whether the runtime should try again without anybody having changed anything.
    pub fn is_retry(&self) -> bool {
        self.code == code::TRY_AGAIN
    }

    /// The error object for stdout. Without a version that could be read from the configuration, the newest.
    pub fn to_json(&self, version: Option<&str>) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Object<'a> {
            cni_version: &'a str,
            #[serde(flatten)]
            error: &'a CniError,
        }
        let object = Object { cni_version: version.unwrap_or(crate::CniVersion::NEWEST.as_str()), error: self };
        // Strings and numbers always serialise; the literal only spares a panic path.
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
    fn the_error_object_is_the_specifications() {
        let error = CniError::new(code::TRY_AGAIN, "not now").with_details("connection refused");
        assert_eq!(
            error.to_json(Some("1.0.0")),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"not now","details":"connection refused"}"#
        );
        assert_eq!(
            CniError::new(code::DECODING, "what").to_json(None),
            r#"{"cniVersion":"1.1.0","code":6,"msg":"what"}"#
        );
    }
}
