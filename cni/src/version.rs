//! The supported CNI versions and their verbs.

use std::{fmt, str::FromStr};

use crate::{
    error::{CniError, code},
    verb::Verb,
};

/// A supported version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.1: ADD and DEL.
    V0_3_1,
    /// 0.4.0: adds CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: removes `ips[].version`.
    V1_0_0,
    /// 1.1.0: adds STATUS, GC and the interface's MTU.
    V1_1_0,
}

impl CniVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// Returns the value of `cniVersion` in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Returns an error (code 1) if the version does not have the verb.
    pub fn require(self, verb: Verb) -> Result<(), CniError> {
        let since = match verb {
            Verb::Add | Verb::Del => Self::V0_3_1,
            Verb::Check => Self::V0_4_0,
            Verb::Status | Verb::Gc => Self::V1_1_0,
        };
        if self >= since {
            return Ok(());
        }
        let msg = format!("CNI {self} has no {verb}, which exists since {since}");
        Err(CniError::new(code::INCOMPATIBLE_VERSION, msg))
    }

    /// Returns all versions for a message: `0.3.1, 0.4.0, …`.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl FromStr for CniVersion {
    type Err = CniError;

    fn from_str(text: &str) -> Result<Self, CniError> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let msg = format!("cniVersion {text:?} is not supported; holdfast supports {}", Self::list());
            CniError::new(code::INCOMPATIBLE_VERSION, msg)
        })
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
