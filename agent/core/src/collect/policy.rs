//! The operator's policy for pods that should be gone and are not.

use std::time::Duration;

use serde::Deserialize;

/// The policy for pods that terminate past their grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// True where such pods lose their addresses at all.
    pub terminating: bool,
    /// True where such pods without a StatefulSet lose theirs on a node that is ready.
    pub stateless_on_ready_node: bool,
    /// True where such pods without a StatefulSet lose theirs on a node that is not ready.
    pub stateless_on_not_ready_node: bool,
    /// The time to wait after the grace period, and after a node's object is gone.
    pub delay: Duration,
    /// The fate of a StatefulSet pod's addresses.
    pub on_timeout: OnTimeout,
}

/// The fate of the addresses of a StatefulSet's pod that terminates past its grace period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnTimeout {
    /// The container loses them; they stay reserved.
    #[default]
    Unbind,
    /// They become free.
    Release,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            terminating: true,
            stateless_on_ready_node: true,
            stateless_on_not_ready_node: true,
            delay: Duration::from_secs(5),
            on_timeout: OnTimeout::Unbind,
        }
    }
}
