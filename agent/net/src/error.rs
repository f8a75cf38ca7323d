//! The error type of this crate.

use std::{io, path::PathBuf};

use holdfast_core::id::{IfName, PodName};

use super::errno::errno;

/// The reason why an operation on the node's network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The path of a pod's namespace does not exist, or is not that of a pod's network namespace.
    #[error("network namespace {path} cannot be entered: {source}")]
    Netns {
        /// `CNI_NETNS`.
        path: PathBuf,
        /// `NotFound`: the namespace is gone. `InvalidInput`: it is not a network namespace, or is the node's own.
        source: io::Error,
    },
    /// The kernel refused a request. `source` contains the kernel's explanation if it gave one.
    #[error("{request}: {source}")]
    Refused {
        /// The request, with names, addresses and the namespace.
        request: String,
        /// The errno.
        source: io::Error,
    },
    /// A netlink or packet socket failed.
    #[error("{kind} socket: {source}")]
    Socket {
        /// The kind of the socket.
        kind: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// A sysctl could not be read or written.
    #[error("sysctl {path}: {source}")]
    Sysctl {
        /// Below `/proc/sys`.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The pod has an interface of that name that the agent did not create.
    #[error("pod {pod} already has an interface {ifname} in {netns}, and holdfast did not create it")]
    NameTaken {
        /// The pod.
        pod: PodName,
        /// The interface.
        ifname: IfName,
        /// The pod's namespace.
        netns: PathBuf,
    },
    /// The uplink does not exist or is not an Ethernet interface.
    #[error("uplink {name}: {reason}")]
    BadUplink {
        /// The name of the interface, for one `master` of the configuration.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// The node has no interface that can be the uplink.
    #[error(
        "no uplink for {addresses}: no interface of this node is in that subnet and there is no default route; name one as \"master\""
    )]
    NoUplink {
        /// The pod's addresses.
        addresses: String,
    },
    /// The requested addresses or routes cannot work.
    #[error("pod {pod}: {reason}")]
    Invalid {
        /// The pod.
        pod: PodName,
        /// The reason.
        reason: String,
    },
    /// CHECK found differences.
    #[error("network of pod {pod} differs from its configuration: {}", .missing.join("; "))]
    Drift {
        /// The pod.
        pod: PodName,
        /// Each difference, in words.
        missing: Vec<String>,
    },
    /// The worker thread panicked or was cancelled.
    #[error("network worker: {0}")]
    Worker(String),
}

impl NetError {
    /// Returns true if the same request may succeed later without a change by the user.
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

    /// Returns true if the pod's namespace is gone, and with it all that was in it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Netns { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Returns true if the runtime's parameters are wrong: `CNI_NETNS` is not the network namespace of a pod.
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Netns { source, .. }
            if matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory))
    }

    /// Returns true if the configuration or the pod is wrong.
    pub fn is_mistake(&self) -> bool {
        matches!(self, Self::NameTaken { .. } | Self::BadUplink { .. } | Self::NoUplink { .. } | Self::Invalid { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_busy_kernel_are_retried() {
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
