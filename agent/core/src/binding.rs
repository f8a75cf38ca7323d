//! The bindings of this node: which container may use which address on which link.
//!
//! Each pair of link and address goes through these states:
//!
//! ```text
//!            Bind                      Bind of another link, Reassigned
//!  (free) ─────────▶ Current ─────────────────────────────────────────▶ Stale
//!     ▲               │   ▲                                              │
//!     │ SandboxExited │   │ Bind, Observed: the endpoint                 │ SandboxExited
//!     │               ▼   │ names this container                         ▼
//!     └──────────────── Dead ◀───────────────────────────────────────────┘
//!       Detached (from any state)
//! ```
//!
//! [`Event::Detaching`] makes a link's Current addresses Stale, too. A detaching link is not verified any more, since its
//! container is taken down on purpose.
//!
//! A packet is never evidence: [`Event::Violation`] changes no state, it only makes the node read the records
//! ([`Action::Verify`]). The result of that read, [`Event::Observed`], decides:
//!
//! | the endpoint names | the link's sandbox | the named sandbox | action |
//! |---|---|---|---|
//! | this container | runs | | bind: the address is Current again (a crash had left it out) |
//! | this container | is dead | | collect: the record loses its holder |
//! | an older container of the same pod, or none | runs | is dead or unknown here | rebind: the record names this container |
//! | none, since this container was dismissed on purpose | any | | fence |
//! | another container, or it lists no address | any | runs, or is on another node | fence: the link's addresses become Stale |
//!
//! The machine mirrors the kernel's maps. Its driver carries the actions out in their order. An address becomes Current
//! on one link before it becomes Stale on another, and it is never Current on two.

mod action;
mod event;
mod link;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::id::{Generation, IfIndex};

pub use action::{Action, Report};
pub use event::{Event, Observation, RecordedHolder, Violation};
use link::Link;
pub use link::{LinkOwner, State};

/// The shortest time between two [`Action::Verify`] of one link that packets cause: each costs reads at the API server.
const VERIFY_INTERVAL: Duration = Duration::from_millis(500);

/// The bindings of a node.
#[derive(Debug, Clone, Default)]
pub struct Bindings {
    links: BTreeMap<IfIndex, Link>,
}

impl Bindings {
    /// Returns the state of an address on a link; none where it is free.
    pub fn state(&self, link: IfIndex, address: IpAddr) -> Option<State> {
        self.links.get(&link)?.addresses.get(&address).map(|(_, state)| *state)
    }

    /// Returns the container of a link.
    pub fn owner(&self, link: IfIndex) -> Option<LinkOwner> {
        self.links.get(&link).map(|link| link.owner)
    }

    /// Returns the links of a container.
    pub fn links_of(&self, tag: u64) -> Vec<IfIndex> {
        self.links.iter().filter(|(_, link)| link.owner.tag == tag).map(|(index, _)| *index).collect()
    }

    /// Returns true while a link is about to be deleted.
    pub fn is_detaching(&self, link: IfIndex) -> bool {
        self.links.get(&link).is_some_and(|link| link.detaching)
    }

    /// Adds a link that has no address yet, so that its records can be verified.
    pub fn register(&mut self, link: IfIndex, owner: LinkOwner) {
        self.links.entry(link).or_insert_with(|| Link::new(owner));
    }

    /// Adds a binding that the kernel's map has from an earlier run.
    pub fn restore(&mut self, link: IfIndex, owner: LinkOwner, address: IpAddr, generation: Generation, state: State) {
        let there = self.links.entry(link).or_insert_with(|| Link::new(owner));
        there.addresses.insert(address, (generation, state));
    }

    /// Returns the link on which an address is current.
    pub fn holder(&self, address: IpAddr) -> Option<IfIndex> {
        self.links.keys().copied().find(|link| self.state(*link, address) == Some(State::Current))
    }

    /// Takes an event and returns the actions that follow, in their order. `now` is a time of one monotonic clock.
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
        // The kernel reuses interface indexes: the link that had this one is gone.
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

    /// The exit is the first observation of a death, the verification is the second.
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
                let is_current = |address: IpAddr| self.state(link, address) == Some(State::Current);
                let is_missing =
                    |address: &IpAddr| !is_current(*address) && !self.has_newer_holder(*address, generation);
                let missing: Vec<_> = observation.listed.iter().copied().filter(is_missing).collect();
                missing.into_iter().flat_map(|address| self.bind(link, owner, address, generation)).collect()
            }
            _ if observation.needs_rebind() => vec![Action::Rebind { link }],
            _ => self.fence(link),
        }
    }

    /// Returns true where a newer generation holds the address here: the record was read before that one was bound.
    fn has_newer_holder(&self, address: IpAddr, generation: Generation) -> bool {
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
