//! The events of the programs.

use std::{net::IpAddr, time::Duration};

use aya::maps::{Map, MapData, RingBuf};
use holdfast_abi::{
    EVENT_CONFLICT, EVENT_FOREIGN, EVENT_LEASE, EVENT_MAC, EVENT_SANDBOX, EVENT_STALE, Event, VIA_ARP, VIA_LINK, VIA_ND,
};
use holdfast_core::{
    id::{Generation, IfIndex},
    mac::Mac,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{entries::address_of, error::DatapathError, maps::failed, pins::Pins};

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A link used an address that has a newer holder.
    Stale,
    /// A link used an address of a managed pool that is not bound to it.
    Foreign,
    /// A link used a MAC that is not its own.
    Mac,
    /// A host on the LAN claimed an address that is bound here.
    Conflict,
    /// A watched sandbox's process ended.
    SandboxExit,
    /// A link used an address whose lease has run out.
    LeaseExpired,
}

/// The place of the address in the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// An IP packet's source.
    Ip,
    /// ARP.
    Arp,
    /// IPv6 neighbour discovery.
    Nd,
    /// The Ethernet header.
    Link,
}

/// The holder of the address on this node at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The holder's link.
    pub link: IfIndex,
    /// The holder's generation.
    pub generation: Generation,
    /// The holder's container.
    pub container_tag: u64,
    /// The holder's MAC.
    pub mac: Mac,
}

/// One event. The packet's content is not evidence: only the link that it came by is certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardEvent {
    /// The kind of the event.
    pub kind: EventKind,
    /// The link it was seen on; 0 for a sandbox's exit.
    pub link: IfIndex,
    /// The address used; unspecified where none was.
    pub address: IpAddr,
    /// The MAC used.
    pub mac: Mac,
    /// The generation bound to the link.
    pub generation: Generation,
    /// The container bound to the link, or the sandbox that ended.
    pub container_tag: u64,
    /// The time, in nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp_ns: u64,
    /// Whether the packet was dropped.
    pub dropped: bool,
    /// The place of the address in the packet.
    pub via: Via,
    /// The agent's number of the pool the address is in; 0 where that was not looked up.
    pub pool: u32,
    /// The process that ended, for a sandbox's exit.
    pub process: u32,
    /// The holder of the address on this node.
    pub holder: Option<Holder>,
}

impl GuardEvent {
    /// Returns the time since the event.
    pub fn age(&self) -> Duration {
        // `bpf_ktime_get_ns` reads the same clock.
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        now.saturating_sub(Duration::from_nanos(self.timestamp_ns))
    }

    /// Reads a record of the ring.
    fn decode(bytes: &[u8]) -> Result<Self, DatapathError> {
        let unknown = || DatapathError::Event { length: bytes.len() };
        let event = Event::decode(bytes).ok_or_else(unknown)?;
        let kind = match event.kind {
            EVENT_STALE => EventKind::Stale,
            EVENT_FOREIGN => EventKind::Foreign,
            EVENT_MAC => EventKind::Mac,
            EVENT_CONFLICT => EventKind::Conflict,
            EVENT_SANDBOX => EventKind::SandboxExit,
            EVENT_LEASE => EventKind::LeaseExpired,
            _ => return Err(unknown()),
        };
        let via = match event.via {
            VIA_ARP => Via::Arp,
            VIA_ND => Via::Nd,
            VIA_LINK => Via::Link,
            _ => Via::Ip,
        };
        let holder = (event.owner_link != 0).then_some(Holder {
            link: IfIndex(event.owner_link),
            generation: Generation(event.owner_generation),
            container_tag: event.owner_tag,
            mac: Mac(event.owner_mac),
        });
        Ok(Self {
            kind,
            link: IfIndex(event.link),
            address: address_of(event.address),
            mac: Mac(event.mac),
            generation: Generation(event.generation),
            container_tag: event.container_tag,
            timestamp_ns: event.timestamp_ns,
            dropped: event.dropped != 0,
            via,
            pool: event.pool,
            process: event.process,
            holder,
        })
    }
}

/// The stream of events. The ring has one reader: a second one would take events from the first.
pub struct Events(Source);

/// The ring, registered with the runtime at its first use: the guard may be opened outside a runtime.
enum Source {
    Idle(RingBuf<MapData>),
    Registered(AsyncFd<RingBuf<MapData>>),
    Failed,
}

impl Events {
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        // Through the pin: the ring's size is the pinned map's, not the object's.
        let ring = MapData::from_pin(pins.map("EVENTS")).and_then(Map::from_map_data).and_then(RingBuf::try_from);
        Ok(Self(Source::Idle(ring.map_err(failed("EVENTS"))?)))
    }

    /// Waits for the next event. [`DatapathError::Event`] is a record that was skipped; any other
    /// error means that no more events will come. Cancel safe.
    pub async fn next(&mut self) -> Result<GuardEvent, DatapathError> {
        let ring = self.registered()?;
        loop {
            let mut ready = ring.readable_mut().await.map_err(DatapathError::Wait)?;
            if let Some(record) = ready.get_inner_mut().next() {
                return GuardEvent::decode(&record);
            }
            // An event that arrives from here on sets the readiness again: it is only cleared as of `readable_mut`.
            ready.clear_ready();
        }
    }

    fn registered(&mut self) -> Result<&mut AsyncFd<RingBuf<MapData>>, DatapathError> {
        if let Source::Idle(_) = self.0
            && let Source::Idle(ring) = std::mem::replace(&mut self.0, Source::Failed)
        {
            self.0 = Source::Registered(register(ring).map_err(DatapathError::Wait)?);
        }
        match &mut self.0 {
            Source::Registered(ring) => Ok(ring),
            _ => Err(DatapathError::Wait(std::io::ErrorKind::NotConnected.into())),
        }
    }
}

#[expect(unsafe_code, reason = "tokio cannot know that the ring keeps its descriptor")]
fn register(ring: RingBuf<MapData>) -> std::io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, gives out the same one every time, and keeps it open until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    registered.map_err(Into::into)
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_another_size_or_version_are_not_read() {
        for length in [0, 1, 95, 96, 97, 1000] {
            let error = GuardEvent::decode(&vec![0; length]).unwrap_err();
            assert!(matches!(error, DatapathError::Event { length: found } if found == length), "{error}");
        }
    }
}
