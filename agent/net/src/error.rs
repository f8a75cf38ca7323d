//! What can go wrong between the agent and the kernel's network.

use std::{io, path::PathBuf};

use holdfast_core::id::{IfName, PodName};

use super::netlink::errno;

/// Why a link, an address or a route is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The namespace's path does not exist (any more), or is something else.
    #[error("network namespace {path} cannot be entered: {source}")]
    Netns {
        /// `CNI_NETNS`.
        path: PathBuf,
        /// `NotFound`: gone. `InvalidInput`: not a network namespace, or the node's own.
        source: io::Error,
    },
    /// The kernel refused a request; its own explanation is part of `source` where it gave one.
    #[error("{request}: {source}")]
    Refused {
        /// What was asked, with the names and addresses in it, and where.
        request: String,
        /// The errno.
        source: io::Error,
    },
    /// A netlink or packet socket failed.
    #[error("{what} socket: {source}")]
    Socket {
        /// Which kind.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// A kernel setting could not be read or written.
    #[error("kernel setting {path}: {source}")]
    Sysctl {
        /// Below `/proc/sys`.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The pod has an interface of that name, which is not from here.
    #[error("pod {pod} has an interface {ifname} already in {netns}, and it is not holdfast's")]
    NameTaken {
        /// The pod.
        pod: PodName,
        /// The interface.
        ifname: IfName,
        /// The pod's namespace.
        netns: PathBuf,
    },
    /// The configuration names an uplink that is not there or is no Ethernet.
    #[error("uplink {name}: {reason}")]
    BadUplink {
        /// `master` of the configuration.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No interface of the node can be the uplink.
    #[error(
        "no uplink for {addresses}: no interface of this node is in that subnet and there is no default route; name one as \"master\""
    )]
    NoUplink {
        /// The pod's addresses.
        addresses: String,
    },
    /// The request makes no sense.
    #[error("pod {pod}: {reason}")]
    Invalid {
        /// The pod.
        pod: PodName,
        /// What is wrong.
        reason: String,
    },
    /// CHECK found differences.
    #[error("network of pod {pod} is not as it was made: {}", .missing.join("; "))]
    Drift {
        /// The pod.
        pod: PodName,
        /// Each thing that is missing or other than it should be.
        missing: Vec<String>,
    },
    /// The worker thread did not end properly.
    #[error("network worker: {0}")]
    Worker(String),
}

impl NetError {
    /// Whether the same request may well succeed later, with nobody having changed anything.
    pub fn is_retry(&self) -> bool {
        match self {
            Self::Netns { source, .. }
            | Self::Refused { source, .. }
            | Self::Socket { source, .. }
            | Self::Sysctl { source, .. } => matches!(
                errno(source),
                Some(
                    libc::EBUSY
                        | libc::EAGAIN
                        | libc::EINTR
                        | libc::ENOBUFS
                        | libc::ENOMEM
                        | libc::EMFILE
                        | libc::ENFILE
                )
            ),
            Self::Worker(_) => true,
            _ => false,
        }
    }

    /// Whether the pod's namespace is gone, so that nothing is left to be done in it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Netns { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the runtime's parameters are at fault: `CNI_NETNS` is no pod's network namespace.
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Netns { source, .. }
            if matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory))
    }

    /// Whether the configuration or the pod is at fault.
    pub fn is_mistake(&self) -> bool {
        matches!(self, Self::NameTaken { .. } | Self::BadUplink { .. } | Self::NoUplink { .. } | Self::Invalid { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_is_too_busy_for_is_tried_again() {
        let refused = |errno| NetError::Refused { request: String::new(), source: io::Error::from_raw_os_error(errno) };
        assert!(refused(libc::EBUSY).is_retry());
        assert!(!refused(libc::EINVAL).is_retry());
        let netns = |errno| NetError::Netns { path: "/x".into(), source: io::Error::from_raw_os_error(errno) };
        assert!(netns(libc::EMFILE).is_retry());
        assert!(netns(libc::ENOENT).is_gone() && !netns(libc::ENOENT).is_environment());
        assert!(netns(libc::ENOTDIR).is_environment());
        assert!(!netns(libc::EACCES).is_environment());
    }
}
