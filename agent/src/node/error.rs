//! The errors of the node's parts, and their CNI error codes.

use holdfast_cni::{CniError, code};
use holdfast_core::id::PodName;
use holdfast_guard::DatapathError;
use holdfast_ipam::{ErrorClass, IpamError};
use holdfast_net::NetError;

/// The reason why a verb or a step of the driver failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The records.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The node's network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The guard.
    #[error("the guard: {0}")]
    Datapath(#[from] DatapathError),
    /// The request itself.
    #[error("{}", .0.msg)]
    Request(#[from] CniError),
    /// The deadline.
    #[error("it took longer than the agent's deadline")]
    Deadline,
}

impl NodeError {
    /// Returns the CNI error: the code tells the runtime what to do, the sentence ends up in the pod's events.
    pub(super) fn for_runtime(&self, pod: &PodName) -> CniError {
        let code = match self {
            Self::Request(error) => return error.clone(),
            Self::Ipam(error) => match error.class() {
                ErrorClass::ApiServer | ErrorClass::Contended => code::TRY_AGAIN,
                ErrorClass::PodNotFound => code::UNKNOWN_CONTAINER,
                ErrorClass::Stale => code::STALE,
                ErrorClass::InvalidAnnotation | ErrorClass::NoPool => code::INVALID_CONFIG,
                ErrorClass::StaticIpUnavailable | ErrorClass::Exhausted => code::EXHAUSTED,
            },
            Self::Net(error) if error.is_retry() => code::TRY_AGAIN,
            Self::Net(error) if error.is_mistake() => code::INVALID_CONFIG,
            Self::Net(error) if error.is_environment() => code::INVALID_ENVIRONMENT,
            Self::Net(error) if error.is_gone() => code::UNKNOWN_CONTAINER,
            Self::Net(_) | Self::Datapath(_) => code::INTERNAL,
            Self::Deadline => code::TRY_AGAIN,
        };
        let text = self.to_string();
        // Most texts name the pod already.
        let msg = if text.contains(&pod.to_string()) { text } else { format!("pod {pod}: {text}") };
        CniError::new(code, msg)
    }
}
