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
//! [`Event::Leaving`] and [`Event::Moved`] make what is Current Stale, as a Bind elsewhere does. A link that is leaving is
//! looked at no more: its container was taken off on purpose.
//!
//! What a packet says is never evidence: [`Event::Seen`] changes no state, it only makes the node look at the records. What
//! it finds there ([`Event::Found`]) decides:
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
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
pub struct Party {
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
        party: Party,
        /// The address.
        address: IpAddr,
        /// The holder's generation.
        generation: Generation,
    },
    /// A link is about to go: its container is being taken down.
    Leaving {
        /// The link.
        link: IfIndex,
    },
    /// A link has gone.
    Detach {
        /// The link.
        link: IfIndex,
    },
    /// An address has a new holder, whose link may not be there yet: whoever else has it on this node is an older one.
    Moved {
        /// The address.
        address: IpAddr,
        /// The new holder, by [`ContainerId::tag`](crate::id::ContainerId::tag).
        to: u64,
    },
    /// The guard saw a packet that it did not like.
    Seen {
        /// The link it came by.
        link: IfIndex,
        /// The address it used.
        address: IpAddr,
        /// What was wrong.
        sight: Sight,
    },
    /// A sandbox's process ended.
    Exited {
        /// [`ContainerId::tag`].
        tag: u64,
    },
    /// A host on the LAN claimed an address.
    Conflict {
        /// The address.
        address: IpAddr,
    },
    /// What a look at the records found.
    Found {
        /// The link that it was about.
        link: IfIndex,
        /// What was found.
        finding: Finding,
    },
}

/// What was wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sight {
    /// Its address has a newer holder.
    Stale,
    /// Its address is of a managed pool, but not the link's.
    Foreign,
    /// Its hardware address is not the link's.
    Mac,
}

/// Who an endpoint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Nobody, or there is no endpoint.
    Nobody,
    /// Nobody any more: the link's container was taken off on purpose, by its runtime or by a controller that took its
    /// addresses back.
    Dismissed,
    /// A container.
    Holder {
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
pub struct Finding {
    /// Who the endpoint names.
    pub named: Named,
    /// The addresses that the endpoint lists for the link's interface.
    pub listed: Vec<IpAddr>,
    /// Whether the API server's current pod is the one that the link's sandbox belongs to.
    pub same_pod: bool,
    /// Whether the link's own sandbox lives.
    pub alive: bool,
}

impl Finding {
    /// Whether the record is to name the link's container: its pod's only sandbox that lives, and nobody decided
    /// otherwise.
    pub fn asks_for_rebind(&self) -> bool {
        let vacant = matches!(self.named, Named::Nobody | Named::Holder { may_live: false, .. });
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
        party: Party,
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
    /// Read the link's pod, endpoint and sandbox, and answer with [`Event::Found`].
    Look {
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
    party: Party,
    addresses: BTreeMap<IpAddr, (Generation, State)>,
    looked: Option<Duration>,
    leaving: bool,
}

impl Link {
    fn new(party: Party) -> Self {
        Self { party, addresses: BTreeMap::new(), looked: None, leaving: false }
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
    pub fn party(&self, link: IfIndex) -> Option<Party> {
        self.links.get(&link).map(|link| link.party)
    }

    /// The links of a container.
    pub fn links_of(&self, tag: u64) -> Vec<IfIndex> {
        self.links.iter().filter(|(_, link)| link.party.tag == tag).map(|(index, _)| *index).collect()
    }

    /// Whether a link is about to go.
    pub fn is_leaving(&self, link: IfIndex) -> bool {
        self.links.get(&link).is_some_and(|link| link.leaving)
    }

    /// Makes a link known that has no address yet, so that its records can be looked at.
    pub fn know(&mut self, link: IfIndex, party: Party) {
        self.links.entry(link).or_insert_with(|| Link::new(party));
    }

    /// Takes over what the kernel's map holds already.
    pub fn adopt(&mut self, link: IfIndex, party: Party, address: IpAddr, generation: Generation, state: State) {
        let there = self.links.entry(link).or_insert_with(|| Link::new(party));
        there.addresses.insert(address, (generation, state));
    }

    /// The link of a container that has the address now.
    pub fn holder(&self, address: IpAddr) -> Option<IfIndex> {
        self.links.keys().copied().find(|link| self.state(*link, address) == Some(State::Current))
    }

    /// Takes an event at `now`, on a clock that only runs forward, and says what is to be done.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        match event {
            Event::Bind { link, party, address, generation } => self.bind(link, party, address, generation),
            Event::Leaving { link } => self.leave(link),
            Event::Detach { link } => {
                self.links.remove(&link);
                Vec::new()
            }
            Event::Moved { address, to } => self.moved(address, to),
            Event::Seen { link, address, sight } => self.seen(now, link, address, sight),
            Event::Exited { tag } => self.exited(now, tag),
            Event::Conflict { address } => match self.holder(address) {
                Some(_) => vec![Action::Report { link: None, address, report: Report::AddressConflict }],
                None => Vec::new(),
            },
            Event::Found { link, finding } => self.found(link, &finding),
        }
    }

    fn bind(&mut self, link: IfIndex, party: Party, address: IpAddr, generation: Generation) -> Vec<Action> {
        // A number that the kernel gave again to another container's link: what was there is gone.
        if self.links.get(&link).is_some_and(|there| there.party.tag != party.tag) {
            self.links.remove(&link);
        }
        let there = self.links.entry(link).or_insert_with(|| Link::new(party));
        there.leaving = false;
        there.addresses.insert(address, (generation, State::Current));
        for (_, other) in self.links.iter_mut().filter(|(other, _)| **other != link) {
            other.end_current(State::Stale, |held| held == address);
        }
        vec![Action::MakeCurrent { link, party, address, generation }]
    }

    fn leave(&mut self, link: IfIndex) -> Vec<Action> {
        let Some(there) = self.links.get_mut(&link) else { return Vec::new() };
        there.leaving = true;
        make_stale(link, there.end_current(State::Stale, |_| true))
    }

    fn moved(&mut self, address: IpAddr, to: u64) -> Vec<Action> {
        let others = self.links.iter_mut().filter(|(_, link)| link.party.tag != to);
        others
            .flat_map(|(link, there)| make_stale(*link, there.end_current(State::Stale, |held| held == address)))
            .collect()
    }

    fn seen(&mut self, now: Duration, link: IfIndex, address: IpAddr, sight: Sight) -> Vec<Action> {
        let report = match sight {
            Sight::Stale => Report::StaleContainerFenced,
            Sight::Foreign | Sight::Mac => Report::SourceViolation,
        };
        let mut actions = vec![Action::Report { link: Some(link), address, report }];
        actions.extend(self.look(now, link));
        actions
    }

    fn look(&mut self, now: Duration, link: IfIndex) -> Option<Action> {
        let there = self.links.get_mut(&link).filter(|there| !there.leaving)?;
        if there.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_AGAIN) {
            return None;
        }
        there.looked = Some(now);
        Some(Action::Look { link })
    }

    /// The first observation of a death. The look is the second.
    fn exited(&mut self, now: Duration, tag: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&link, there) in self.links.iter_mut().filter(|(_, link)| link.party.tag == tag) {
            actions.extend(make_stale(link, there.end_current(State::Dead, |_| true)));
            for (_, state) in there.addresses.values_mut() {
                *state = State::Dead;
            }
            if !there.leaving {
                there.looked = Some(now);
                actions.push(Action::Look { link });
            }
        }
        actions
    }

    fn found(&mut self, link: IfIndex, finding: &Finding) -> Vec<Action> {
        let Some(there) = self.links.get(&link).filter(|there| !there.leaving) else { return Vec::new() };
        let party = there.party;
        match finding.named {
            Named::Holder { tag, .. } if tag == party.tag && !finding.alive => vec![Action::Collect { link }],
            Named::Holder { tag, generation, .. } if tag == party.tag => {
                let missing = |address: &IpAddr| self.state(link, *address) != Some(State::Current);
                let ours = |address: &IpAddr| missing(address) && !self.is_newer(*address, generation);
                let missing: Vec<_> = finding.listed.iter().copied().filter(ours).collect();
                missing.into_iter().flat_map(|address| self.bind(link, party, address, generation)).collect()
            }
            _ if finding.asks_for_rebind() => vec![Action::Rebind { link }],
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
