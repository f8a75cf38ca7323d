//! The events that the programs send to the agent.

use core::mem::{offset_of, size_of};

use crate::{binding::Address, link::Mac, meta::LAYOUT_VERSION};

/// A link used an address that has a newer holder.
pub const EVENT_STALE: u32 = 1;
/// A link used an address of a managed pool that is not bound to it.
pub const EVENT_FOREIGN: u32 = 2;
/// A link used a MAC that is not the link's.
pub const EVENT_MAC: u32 = 3;
/// A MAC that is not the holder's claimed an address bound on this node.
pub const EVENT_CONFLICT: u32 = 4;
/// The process of a watched sandbox exited.
pub const EVENT_SANDBOX: u32 = 5;
/// A link used an address whose lease has expired.
pub const EVENT_LEASE: u32 = 6;

/// The address is the source of an IP packet.
pub const VIA_IP: u8 = 1;
/// The address is in an ARP packet.
pub const VIA_ARP: u8 = 2;
/// The address is in an IPv6 neighbour discovery packet.
pub const VIA_ND: u8 = 3;
/// The MAC is in the Ethernet header of a frame without an address to be checked.
pub const VIA_LINK: u8 = 4;

/// One record of the ring buffer. Fields that do not apply to the kind are zero.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// [`LAYOUT_VERSION`] of the program. The pinned ring may contain records of an older agent's programs.
    pub version: u16,
    /// The size of the record in bytes.
    pub size: u16,
    /// `EVENT_*`.
    pub kind: u32,
    /// The link that the packet was on.
    pub link: u32,
    /// The frame's ethertype, behind VLAN tags.
    pub ethertype: u16,
    /// 1 if the packet was dropped.
    pub dropped: u8,
    /// `VIA_*`.
    pub via: u8,
    /// The time of the event in nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp_ns: u64,
    /// The generation of the binding, or without one that of the link.
    pub generation: u64,
    /// The tag of the link's container, or of the sandbox that exited.
    pub container_tag: u64,
    /// The address used.
    pub address: Address,
    /// The MAC used.
    pub mac: Mac,
    /// The holder's MAC.
    pub owner_mac: Mac,
    /// The holder's link, 0 if the address has no holder on this node.
    pub owner_link: u32,
    /// The number of the pool that contains the address.
    pub pool: u32,
    /// The ID of the process that exited.
    pub process: u32,
    /// The holder's generation.
    pub owner_generation: u64,
    /// The tag of the holder's container.
    pub owner_tag: u64,
}

/// Reads the field `$name` from `$bytes`.
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
    /// Returns the event of a record, or `None` if the record has another size or version.
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
