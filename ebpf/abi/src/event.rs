//! What the programs tell the agent.

use core::mem::{offset_of, size_of};

use crate::{Address, LAYOUT_VERSION, Mac};

/// A link used an address that has a newer holder.
pub const EVENT_STALE: u32 = 1;
/// A link used an address of a managed pool that was never its own.
pub const EVENT_FOREIGN: u32 = 2;
/// A link used a MAC that is not its own.
pub const EVENT_MAC: u32 = 3;
/// A host on the LAN claimed an address that is bound here.
pub const EVENT_CONFLICT: u32 = 4;
/// A watched sandbox's process ended.
pub const EVENT_SANDBOX: u32 = 5;
/// A link used an address whose lease has run out.
pub const EVENT_LEASE: u32 = 6;

/// Seen as an IP packet's source.
pub const VIA_IP: u8 = 1;
/// Seen in ARP.
pub const VIA_ARP: u8 = 2;
/// Seen in IPv6 neighbour discovery.
pub const VIA_ND: u8 = 3;
/// Seen in the Ethernet header.
pub const VIA_LINK: u8 = 4;

/// One record of the ring buffer. Fields that a kind has no use for are zero.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// [`LAYOUT_VERSION`] of the program. Programs of an older agent may have left records in the pinned ring.
    pub version: u16,
    /// Size of the record in bytes.
    pub size: u16,
    /// `EVENT_*`.
    pub kind: u32,
    /// The link it was seen on.
    pub link: u32,
    /// The frame's protocol, behind VLAN tags.
    pub ethertype: u16,
    /// 1 if the packet was dropped.
    pub dropped: u8,
    /// `VIA_*`.
    pub via: u8,
    /// `CLOCK_MONOTONIC`, when it was seen.
    pub timestamp_ns: u64,
    /// The generation bound to the link (the binding's where there is one).
    pub generation: u64,
    /// The container bound to the link, or the sandbox that ended.
    pub container_tag: u64,
    /// The address used.
    pub address: Address,
    /// The MAC used.
    pub mac: Mac,
    /// The holder's MAC.
    pub owner_mac: Mac,
    /// The holder's link, 0 if nobody on this node holds the address.
    pub owner_link: u32,
    /// The pool the address is in.
    pub pool: u32,
    /// The process that ended.
    pub process: u32,
    /// The holder's generation.
    pub owner_generation: u64,
    /// The holder's container.
    pub owner_tag: u64,
}

/// Reads field `$name` out of `$bytes`.
macro_rules! field {
    ($bytes:ident, $name:ident, [u8; $length:literal]) => {{
        let mut raw = [0; $length];
        let at = offset_of!(Event, $name);
        raw.copy_from_slice(&$bytes[at..at + $length]);
        raw
    }};
    ($bytes:ident, $name:ident, $kind:ty) => {{
        let mut raw = [0; size_of::<$kind>()];
        let at = offset_of!(Event, $name);
        raw.copy_from_slice(&$bytes[at..at + size_of::<$kind>()]);
        <$kind>::from_ne_bytes(raw)
    }};
}

impl Event {
    /// The event in a record, or `None` if the record is of another size or version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let event = Self {
            version: field!(bytes, version, u16),
            size: field!(bytes, size, u16),
            kind: field!(bytes, kind, u32),
            link: field!(bytes, link, u32),
            ethertype: field!(bytes, ethertype, u16),
            dropped: field!(bytes, dropped, u8),
            via: field!(bytes, via, u8),
            timestamp_ns: field!(bytes, timestamp_ns, u64),
            generation: field!(bytes, generation, u64),
            container_tag: field!(bytes, container_tag, u64),
            address: field!(bytes, address, [u8; 16]),
            mac: field!(bytes, mac, [u8; 6]),
            owner_mac: field!(bytes, owner_mac, [u8; 6]),
            owner_link: field!(bytes, owner_link, u32),
            pool: field!(bytes, pool, u32),
            process: field!(bytes, process, u32),
            owner_generation: field!(bytes, owner_generation, u64),
            owner_tag: field!(bytes, owner_tag, u64),
        };
        (event.version == LAYOUT_VERSION && usize::from(event.size) == size_of::<Self>()).then_some(event)
    }
}

const _: () = {
    assert!(size_of::<Event>() == 96);
    assert!(offset_of!(Event, timestamp_ns) == 16 && offset_of!(Event, address) == 40);
    assert!(offset_of!(Event, owner_link) == 68 && offset_of!(Event, owner_tag) == 88);
};
