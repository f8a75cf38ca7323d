//! What the programs count.

/// Index into `COUNTERS`.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// From a pod: the address is bound to the link.
    PassCurrent = 0,
    /// From a pod: the address is in no managed pool.
    PassOutside,
    /// From a pod: neither IP nor ARP.
    PassOther,
    /// From a pod: a violation that observe mode let through.
    PassObserved,
    /// Towards a pod.
    PassToPod,
    /// From a pod: the address has a newer holder.
    DropStale,
    /// From a pod: an address of a managed pool that is not bound to the link.
    DropForeign,
    /// From a pod: a MAC that is not the link's.
    DropMac,
    /// From a pod: the binding's lease has run out.
    DropLease,
    /// From a pod: a frame cut short inside the headers that are checked.
    DropMalformed,
    /// Towards a pod: the address has a newer holder.
    DropToStale,
    /// Those of the drops that were ARP.
    DropArp,
    /// Those of the drops that were IPv6 neighbour discovery.
    DropNd,
    /// On the uplink: claims of an address bound here, by a MAC that is not its holder's.
    Conflicts,
    /// Watched sandboxes that ended.
    SandboxExits,
    /// Events handed to the agent.
    Events,
    /// Events kept back by the rate limit.
    EventsLimited,
    /// Events lost because the ring was full.
    EventsLost,
}

impl Counter {
    /// All of them, in the order of their index.
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

    /// Entries of `COUNTERS`: room to grow without a new layout.
    pub const SLOTS: u32 = 32;

    /// The name as a metric's label has it.
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
