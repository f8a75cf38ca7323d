//! The events that the binding machine takes.

use std::net::IpAddr;

use super::link::LinkOwner;
use crate::id::{Generation, IfIndex};

/// An event on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container's link got an address.
    Bind {
        /// The link.
        link: IfIndex,
        /// Its container.
        owner: LinkOwner,
        /// The address.
        address: IpAddr,
        /// The holder's generation.
        generation: Generation,
    },
    /// The runtime or a controller takes the link's container down on purpose; the link is deleted soon.
    Detaching {
        /// The link.
        link: IfIndex,
    },
    /// A link is gone.
    Detached {
        /// The link.
        link: IfIndex,
    },
    /// An address has a new holder, whose link may not exist yet. Every other holder of it on this node is older.
    Reassigned {
        /// The address.
        address: IpAddr,
        /// The new holder, by [`ContainerId::tag`](crate::id::ContainerId::tag).
        to: u64,
    },
    /// The guard saw a packet that breaks the bindings.
    Violation {
        /// The link that the packet arrived on.
        link: IfIndex,
        /// The address that the packet used.
        address: IpAddr,
        /// The rule that it broke.
        violation: Violation,
    },
    /// A sandbox's process exited.
    SandboxExited {
        /// [`ContainerId::tag`](crate::id::ContainerId::tag).
        tag: u64,
    },
    /// A host on the LAN claimed an address.
    Conflict {
        /// The address.
        address: IpAddr,
    },
    /// The answer to [`Action::Verify`](super::Action::Verify).
    Observed {
        /// The link.
        link: IfIndex,
        /// The result of the reads.
        observation: Observation,
    },
}

/// The rule that a packet broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Its address has a newer holder.
    Stale,
    /// Its address is in a managed pool and is not the link's.
    Foreign,
    /// Its hardware address is not the link's.
    Mac,
}

/// The holder that an endpoint records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedHolder {
    /// No container, or there is no endpoint.
    Vacant,
    /// No container any more: the link's container was dismissed on purpose, by its runtime or by a controller that
    /// reclaimed its addresses.
    Dismissed,
    /// A container.
    Container {
        /// [`ContainerId::tag`](crate::id::ContainerId::tag).
        tag: u64,
        /// The holder's generation.
        generation: Generation,
        /// True where the container runs on this node, or is recorded on another one.
        may_live: bool,
    },
}

/// The records and the sandbox of a link's pod, read live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The holder that the endpoint records.
    pub recorded: RecordedHolder,
    /// The addresses that the endpoint lists for the link's interface.
    pub listed: Vec<IpAddr>,
    /// True where the link's sandbox belongs to the pod that the API server has under that name now.
    pub same_pod: bool,
    /// True while the link's sandbox runs.
    pub alive: bool,
}

impl Observation {
    /// Returns true where the endpoint should name the link's container: it is the pod's only live sandbox, and was not
    /// dismissed.
    pub fn needs_rebind(&self) -> bool {
        let vacant =
            matches!(self.recorded, RecordedHolder::Vacant | RecordedHolder::Container { may_live: false, .. });
        self.same_pod && self.alive && vacant && !self.listed.is_empty()
    }
}
