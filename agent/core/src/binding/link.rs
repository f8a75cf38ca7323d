//! A guarded link: its container and its addresses.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{id::Generation, mac::Mac};

/// The state of an address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The link's container owns the address.
    Current,
    /// A newer holder owns the address.
    Stale,
    /// The link's sandbox has exited.
    Dead,
}

/// The container that a link belongs to, as the kernel's maps store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkOwner {
    /// [`ContainerId::tag`](crate::id::ContainerId::tag).
    pub tag: u64,
    /// The hardware address of the pod's end. All zero: unknown, and not checked.
    pub mac: Mac,
}

#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) owner: LinkOwner,
    pub(super) addresses: BTreeMap<IpAddr, (Generation, State)>,
    /// The time of the last verification.
    pub(super) verified: Option<Duration>,
    pub(super) detaching: bool,
}

impl Link {
    pub(super) fn new(owner: LinkOwner) -> Self {
        Self { owner, addresses: BTreeMap::new(), verified: None, detaching: false }
    }

    /// Moves the current addresses that `matches` selects to the state `to`, and returns them.
    pub(super) fn end_current(&mut self, to: State, matches: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let current =
            self.addresses.iter_mut().filter(|(address, (_, state))| *state == State::Current && matches(**address));
        let ended = current.map(|(address, (_, state))| {
            *state = to;
            *address
        });
        ended.collect()
    }
}
