//! Which container on this node may use which address, and what follows from what the guard sees.
//!
//! Each pair of link and address goes through these states:
//!
//! ```text
//!            Bind                      Bind of another link
//!  (free) ─────────▶ Current ─────────────────────────────▶ Stale
//!     ▲               │   ▲                                  │
//!     │        Exited │   │ Bind, Found: the endpoint        │ Exited
//!     │               ▼   │        names this container      ▼
//!     └──────────────── Dead ◀───────────────────────────────┘
//!       Detach (from any state)
//! ```
//!
//! [`Event::Detaching`] and [`Event::Reassigned`] make what is Current Stale, as a Bind elsewhere does. A link that is detaching is
//! looked at no more: its container was taken off on purpose.
//!
//! What a packet says is never evidence: [`Event::Violation`] changes no state, it only makes the node look at the records. What
//! it finds there ([`Event::Observed`]) decides:
//!
//! | the endpoint names | the link's sandbox | the named sandbox | then |
//! |---|---|---|---|
//! | this container | lives | | it is made current again (a crash had left it out) |
//! | this container | is dead | | collect: the record loses its holder |
//! | an older container of the same pod, or none | lives | is dead or unknown here | rebind: the record names this one |
//! | none, since this one was taken off it on purpose | any | | fence |
//! | another, or lists nothing | any | lives, or is elsewhere | fence: the link's addresses are dropped |
//!
//! The machine holds what the kernel's maps should hold; whoever drives it carries out its actions in their order. An
//! address is made current on one link before it becomes stale on another, and never is it current on two.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    id::{Generation, IfIndex},
    mac::Mac,
};

/// How long after a look the next one for the same link is not worth its reads.
const VERIFY_INTERVAL: Duration = Duration::from_millis(500);

/// The state of an address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The link's container owns the address.
    Current,
    /// A newer holder does.
    Stale,
    /// The link's sandbox has died.
    Dead,
}

/// A link's container, as the kernel's maps know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkOwner {
    /// [`ContainerId::tag`](crate::id::ContainerId::tag).
    pub tag: u64,
    /// The hardware address of the pod's end. All zero: not known, not checked.
    pub mac: Mac,
}

/// What happened.
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
    /// A link is about to go: its container is being taken down.
    Detaching {
        /// The link.
        link: IfIndex,
    },
    /// A link has gone.
    Detached {
        /// The link.
        link: IfIndex,
    },
    /// An address has a new holder, whose link may not be there yet: whoever else has it on this node is an older one.
    Reassigned {
        /// The address.
        address: IpAddr,
        /// The new holder, by [`ContainerId::tag`](crate::id::ContainerId::tag).
        to: u64,
    },
    /// The guard saw a packet that it did not like.
    Violation {
        /// The link it came by.
        link: IfIndex,
        /// The address it used.
        address: IpAddr,
        /// What was wrong.
        violation: Violation,
    },
    /// A sandbox's process ended.
    SandboxExited {
        /// [`ContainerId::tag`].
        tag: u64,
    },
    /// A host on the LAN claimed an address.
    Conflict {
        /// The address.
        address: IpAddr,
    },
    /// What a look at the records found.
    Observed {
        /// The link that it was about.
        link: IfIndex,
        /// What was found.
        observation: Observation,
    },
}

/// What was wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Its address has a newer holder.
    Stale,
    /// Its address is of a managed pool, but not the link's.
    Foreign,
    /// Its hardware address is not the link's.
    Mac,
}

/// Who an endpoint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedHolder {
    /// Nobody, or there is no endpoint.
    Vacant,
    /// Nobody any more: the link's container was taken off on purpose, by its runtime or by a controller that took its
    /// addresses back.
    Dismissed,
    /// A container.
    Container {
        /// Which.
        tag: u64,
        /// At which generation.
        generation: Generation,
        /// Whether it may live: it does here, or it is on another node.
        may_live: bool,
    },
}

/// What live reads say of a link's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Who the endpoint names.
    pub recorded: RecordedHolder,
    /// The addresses that the endpoint lists for the link's interface.
    pub listed: Vec<IpAddr>,
    /// Whether the API server's current pod is the one that the link's sandbox belongs to.
    pub same_pod: bool,
    /// Whether the link's own sandbox lives.
    pub alive: bool,
}

impl Observation {
    /// Whether the record is to name the link's container: its pod's only sandbox that lives, and nobody decided
    /// otherwise.
    pub fn needs_rebind(&self) -> bool {
        let vacant =
            matches!(self.recorded, RecordedHolder::Vacant | RecordedHolder::Container { may_live: false, .. });
        self.same_pod && self.alive && vacant && !self.listed.is_empty()
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The kernel's map: the address is the link's; every other link's binding of it is stale from the same step on.
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
    /// The kernel's map: the address is not the link's any more.
    MakeStale {
        /// The link.
        link: IfIndex,
        /// The address.
        address: IpAddr,
    },
    /// Stop routing to the link and answering for its addresses.
    Withdraw {
        /// The link.
        link: IfIndex,
    },
    /// Read the link's pod, endpoint and sandbox, and answer with [`Event::Observed`].
    Verify {
        /// The link.
        link: IfIndex,
    },
    /// Write the endpoint: the link's container is the holder, one generation on.
    Rebind {
        /// The link.
        link: IfIndex,
    },
    /// Write the endpoint: the link's container holds nothing any more.
    Collect {
        /// The link.
        link: IfIndex,
    },
    /// Tell people.
    Report {
        /// The link, where one is to blame.
        link: Option<IfIndex>,
        /// The address.
        address: IpAddr,
        /// What.
        report: Report,
    },
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Report {
    /// A container used an address that has a newer holder.
    StaleContainerFenced,
    /// A container used what was never its own.
    SourceViolation,
    /// A host on the LAN claims an address that is bound here.
    AddressConflict,
}

impl Report {
    /// The reason of the Kubernetes event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaleContainerFenced => "StaleContainerFenced",
            Self::SourceViolation => "SourceViolation",
            Self::AddressConflict => "AddressConflict",
        }
    }
}

#[derive(Debug, Clone)]
struct Link {
    owner: LinkOwner,
    addresses: BTreeMap<IpAddr, (Generation, State)>,
    verified: Option<Duration>,
    detaching: bool,
}

impl Link {
    fn new(owner: LinkOwner) -> Self {
        Self { owner, addresses: BTreeMap::new(), verified: None, detaching: false }
    }

    /// Makes what is current of `of` something else. Gives those addresses.
    fn end_current(&mut self, to: State, of: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let current =
            self.addresses.iter_mut().filter(|(address, (_, state))| *state == State::Current && of(**address));
        let ended = current.map(|(address, (_, state))| {
            *state = to;
            *address
        });
        ended.collect()
    }
}

/// The bindings of a node.
#[derive(Debug, Clone, Default)]
pub struct Bindings {
    links: BTreeMap<IfIndex, Link>,
}

impl Bindings {
    /// The state of an address on a link. None: free.
    pub fn state(&self, link: IfIndex, address: IpAddr) -> Option<State> {
        self.links.get(&link)?.addresses.get(&address).map(|(_, state)| *state)
    }

    /// The container of a link.
    pub fn owner(&self, link: IfIndex) -> Option<LinkOwner> {
        self.links.get(&link).map(|link| link.owner)
    }

    /// The links of a container.
    pub fn links_of(&self, tag: u64) -> Vec<IfIndex> {
        self.links.iter().filter(|(_, link)| link.owner.tag == tag).map(|(index, _)| *index).collect()
    }

    /// Whether a link is about to go.
    pub fn is_detaching(&self, link: IfIndex) -> bool {
        self.links.get(&link).is_some_and(|link| link.detaching)
    }

    /// Makes a link known that has no address yet, so that its records can be looked at.
    pub fn register(&mut self, link: IfIndex, owner: LinkOwner) {
        self.links.entry(link).or_insert_with(|| Link::new(owner));
    }

    /// Takes over what the kernel's map holds already.
    pub fn restore(&mut self, link: IfIndex, owner: LinkOwner, address: IpAddr, generation: Generation, state: State) {
        let there = self.links.entry(link).or_insert_with(|| Link::new(owner));
        there.addresses.insert(address, (generation, state));
    }

    /// The link of a container that has the address now.
    pub fn holder(&self, address: IpAddr) -> Option<IfIndex> {
        self.links.keys().copied().find(|link| self.state(*link, address) == Some(State::Current))
    }

    /// Takes an event at `now`, on a clock that only runs forward, and says what is to be done.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        match event {
            Event::Bind { link, owner, address, generation } => self.bind(link, owner, address, generation),
            Event::Detaching { link } => self.detaching(link),
            Event::Detached { link } => {
                self.links.remove(&link);
                Vec::new()
            }
            Event::Reassigned { address, to } => self.reassigned(address, to),
            Event::Violation { link, address, violation } => self.violation(now, link, address, violation),
            Event::SandboxExited { tag } => self.sandbox_exited(now, tag),
            Event::Conflict { address } => match self.holder(address) {
                Some(_) => vec![Action::Report { link: None, address, report: Report::AddressConflict }],
                None => Vec::new(),
            },
            Event::Observed { link, observation } => self.observed(link, &observation),
        }
    }

    fn bind(&mut self, link: IfIndex, owner: LinkOwner, address: IpAddr, generation: Generation) -> Vec<Action> {
        // A number that the kernel gave again to another container's link: what was there is gone.
        if self.links.get(&link).is_some_and(|there| there.owner.tag != owner.tag) {
            self.links.remove(&link);
        }
        let there = self.links.entry(link).or_insert_with(|| Link::new(owner));
        there.detaching = false;
        there.addresses.insert(address, (generation, State::Current));
        for (_, other) in self.links.iter_mut().filter(|(other, _)| **other != link) {
            other.end_current(State::Stale, |held| held == address);
        }
        vec![Action::MakeCurrent { link, owner, address, generation }]
    }

    fn detaching(&mut self, link: IfIndex) -> Vec<Action> {
        let Some(there) = self.links.get_mut(&link) else { return Vec::new() };
        there.detaching = true;
        make_stale(link, there.end_current(State::Stale, |_| true))
    }

    fn reassigned(&mut self, address: IpAddr, to: u64) -> Vec<Action> {
        let others = self.links.iter_mut().filter(|(_, link)| link.owner.tag != to);
        others
            .flat_map(|(link, there)| make_stale(*link, there.end_current(State::Stale, |held| held == address)))
            .collect()
    }

    fn violation(&mut self, now: Duration, link: IfIndex, address: IpAddr, violation: Violation) -> Vec<Action> {
        let report = match violation {
            Violation::Stale => Report::StaleContainerFenced,
            Violation::Foreign | Violation::Mac => Report::SourceViolation,
        };
        let mut actions = vec![Action::Report { link: Some(link), address, report }];
        actions.extend(self.verify(now, link));
        actions
    }

    fn verify(&mut self, now: Duration, link: IfIndex) -> Option<Action> {
        let there = self.links.get_mut(&link).filter(|there| !there.detaching)?;
        if there.verified.is_some_and(|verified| now.saturating_sub(verified) < VERIFY_INTERVAL) {
            return None;
        }
        there.verified = Some(now);
        Some(Action::Verify { link })
    }

    /// The first observation of a death. The look is the second.
    fn sandbox_exited(&mut self, now: Duration, tag: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&link, there) in self.links.iter_mut().filter(|(_, link)| link.owner.tag == tag) {
            actions.extend(make_stale(link, there.end_current(State::Dead, |_| true)));
            for (_, state) in there.addresses.values_mut() {
                *state = State::Dead;
            }
            if !there.detaching {
                there.verified = Some(now);
                actions.push(Action::Verify { link });
            }
        }
        actions
    }

    fn observed(&mut self, link: IfIndex, observation: &Observation) -> Vec<Action> {
        let Some(there) = self.links.get(&link).filter(|there| !there.detaching) else { return Vec::new() };
        let owner = there.owner;
        match observation.recorded {
            RecordedHolder::Container { tag, .. } if tag == owner.tag && !observation.alive => {
                vec![Action::Collect { link }]
            }
            RecordedHolder::Container { tag, generation, .. } if tag == owner.tag => {
                let missing = |address: &IpAddr| self.state(link, *address) != Some(State::Current);
                let ours = |address: &IpAddr| missing(address) && !self.is_newer(*address, generation);
                let missing: Vec<_> = observation.listed.iter().copied().filter(ours).collect();
                missing.into_iter().flat_map(|address| self.bind(link, owner, address, generation)).collect()
            }
            _ if observation.needs_rebind() => vec![Action::Rebind { link }],
            _ => self.fence(link),
        }
    }

    /// Whether an address has a holder here that a record of `generation` cannot know of yet: it was read before that
    /// one was bound.
    fn is_newer(&self, address: IpAddr, generation: Generation) -> bool {
        let held = |link: &Link| link.addresses.get(&address).copied();
        self.links.values().filter_map(held).any(|(there, state)| state == State::Current && there > generation)
    }

    fn fence(&mut self, link: IfIndex) -> Vec<Action> {
        let Some(there) = self.links.get_mut(&link) else { return Vec::new() };
        let mut actions = make_stale(link, there.end_current(State::Stale, |_| true));
        actions.push(Action::Withdraw { link });
        actions
    }
}

fn make_stale(link: IfIndex, addresses: Vec<IpAddr>) -> Vec<Action> {
    addresses.into_iter().map(|address| Action::MakeStale { link, address }).collect()
}

#[cfg(test)]
mod tests;
