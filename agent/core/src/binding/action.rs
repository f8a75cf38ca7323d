//! The actions that the binding machine asks its driver for.

use std::net::IpAddr;

use super::link::LinkOwner;
use crate::id::{Generation, IfIndex};

/// One step for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Bind the address to the link in the kernel's map. The same step makes every other link's binding of it stale.
    MakeCurrent {
        /// The link.
        link: IfIndex,
        /// Its container.
        owner: LinkOwner,
        /// The address.
        address: IpAddr,
        /// The holder's generation.
        generation: Generation,
    },
    /// Mark the link's binding of the address as stale in the kernel's map.
    MakeStale {
        /// The link.
        link: IfIndex,
        /// The address.
        address: IpAddr,
    },
    /// Delete the routes to the link and the proxy entries of its addresses.
    Withdraw {
        /// The link.
        link: IfIndex,
    },
    /// Read the link's pod, endpoint and sandbox, and answer with [`Event::Observed`](super::Event::Observed).
    Verify {
        /// The link.
        link: IfIndex,
    },
    /// Write the endpoint: the link's container is the holder, at the next generation.
    Rebind {
        /// The link.
        link: IfIndex,
    },
    /// Write the endpoint: the link's container is the holder no longer.
    Collect {
        /// The link.
        link: IfIndex,
    },
    /// Publish a Kubernetes event.
    Report {
        /// The link that caused it, if one did.
        link: Option<IfIndex>,
        /// The address.
        address: IpAddr,
        /// The reason.
        report: Report,
    },
}

/// The reason of a Kubernetes event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Report {
    /// A container used an address that has a newer holder.
    StaleContainerFenced,
    /// A container used an address that was never its own.
    SourceViolation,
    /// A host on the LAN claims an address that is bound here.
    AddressConflict,
}

impl Report {
    /// Returns the event's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaleContainerFenced => "StaleContainerFenced",
            Self::SourceViolation => "SourceViolation",
            Self::AddressConflict => "AddressConflict",
        }
    }
}
