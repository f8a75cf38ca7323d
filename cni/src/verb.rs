//! The operations of the CNI specification.

use std::fmt;

/// An operation of the CNI specification, except VERSION, which the plugin answers without the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Attaches the container to the network.
    Add,
    /// Removes the attachment.
    Del,
    /// Verifies that the attachment is as ADD left it.
    Check,
    /// Reports whether an ADD would succeed now.
    Status,
    /// Removes the attachments that are not in a list of valid ones.
    Gc,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 5] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc];

    /// Returns the value of `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }

    /// Returns the path of the agent's HTTP route.
    pub const fn route(self) -> &'static str {
        match self {
            Self::Add => "/v1/add",
            Self::Del => "/v1/del",
            Self::Check => "/v1/check",
            Self::Status => "/v1/status",
            Self::Gc => "/v1/gc",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
