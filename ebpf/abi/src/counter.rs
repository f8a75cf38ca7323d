//! The counters of the programs.

/// A counter, as index into `COUNTERS`.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// From a pod: the address is bound to the link.
    PassCurrent = 0,
    /// From a pod: the address is in no managed pool.
    PassOutside,
    /// From a pod: neither IP nor ARP.
    PassOther,
    /// From a pod: a violation that passed in observe mode.
    PassObserved,
    /// To a pod.
    PassToPod,
    /// From a pod: the address has a newer holder.
    DropStale,
    /// From a pod: an address of a managed pool that is not bound to the link.
    DropForeign,
    /// From a pod: a MAC that is not the link's.
    DropMac,
    /// From a pod: the binding's lease has expired.
    DropLease,
    /// From a pod: a frame that ends inside a header to be checked.
    DropMalformed,
    /// To a pod: the address has a newer holder.
    DropToStale,
    /// The ARP packets among the drops.
    DropArp,
    /// The IPv6 neighbour discovery packets among the drops.
    DropNd,
    /// On the uplink: claims of an address bound on this node by a MAC that is not its holder's.
    Conflicts,
    /// Exits of watched sandboxes.
    SandboxExits,
    /// Events sent to the agent.
    Events,
    /// Events suppressed by the rate limit.
    EventsLimited,
    /// Events lost because the ring was full.
    EventsLost,
}

impl Counter {
    /// All counters, in the order of their index.
    pub const ALL: [Self; 18] = [
        Self::PassCurrent,
        Self::PassOutside,
        Self::PassOther,
        Self::PassObserved,
        Self::PassToPod,
        Self::DropStale,
        Self::DropForeign,
        Self::DropMac,
        Self::DropLease,
        Self::DropMalformed,
        Self::DropToStale,
        Self::DropArp,
        Self::DropNd,
        Self::Conflicts,
        Self::SandboxExits,
        Self::Events,
        Self::EventsLimited,
        Self::EventsLost,
    ];

    /// The number of entries of `COUNTERS`, with room for new counters without a new layout.
    pub const SLOTS: u32 = 32;

    /// Returns the counter's name as the label of a metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PassCurrent => "pass_current",
            Self::PassOutside => "pass_outside",
            Self::PassOther => "pass_other",
            Self::PassObserved => "pass_observed",
            Self::PassToPod => "pass_to_pod",
            Self::DropStale => "drop_stale",
            Self::DropForeign => "drop_foreign",
            Self::DropMac => "drop_mac",
            Self::DropLease => "drop_lease",
            Self::DropMalformed => "drop_malformed",
            Self::DropToStale => "drop_to_stale",
            Self::DropArp => "drop_arp",
            Self::DropNd => "drop_nd",
            Self::Conflicts => "conflicts",
            Self::SandboxExits => "sandbox_exits",
            Self::Events => "events",
            Self::EventsLimited => "events_limited",
            Self::EventsLost => "events_lost",
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < Counter::ALL.len() {
        assert!(Counter::ALL[index] as usize == index);
        index += 1;
    }
    assert!(Counter::ALL.len() <= Counter::SLOTS as usize);
};
