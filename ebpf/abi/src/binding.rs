//! Which link may use which address.

use crate::Mac;

/// An IPv6 address in network order; IPv4 is kept v4-mapped (`::ffff:a.b.c.d`).
pub type Address = [u8; 16];

/// `a.b.c.d` as `::ffff:a.b.c.d`.
#[must_use]
#[inline]
pub const fn v4_mapped(address: [u8; 4]) -> Address {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// One link's use of one address.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingKey {
    /// The link's identity: its interface index on the node, or the number given to a program inside a pod.
    pub link: u32,
    /// Zero.
    pub pad: u32,
    /// The address.
    pub address: Address,
}

impl BindingKey {
    /// The key of `address` on `link`.
    #[must_use]
    #[inline]
    pub const fn new(link: u32, address: Address) -> Self {
        Self { link, pad: 0, address }
    }
}

/// The link holds the address: its packets pass.
pub const STATE_CURRENT: u32 = 1;
/// The address has a newer holder: packets from and to this link with it are dropped.
pub const STATE_STALE: u32 = 2;

/// The binding is good only until [`Lease::deadline_ns`] of its slot.
pub const FLAG_LEASED: u32 = 1;

/// What a link may do with an address.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The fencing token this binding was made with.
    pub generation: u64,
    /// The container, as eight bytes of its ID's digest.
    pub container_tag: u64,
    /// [`STATE_CURRENT`] or [`STATE_STALE`].
    pub state: u32,
    /// [`FLAG_LEASED`] or 0.
    pub flags: u32,
    /// The only MAC the address may be used with; all zero leaves the MAC unchecked. It is a copy of the link's, so
    /// that the hot path needs one lookup.
    pub mac: Mac,
    /// Slot in `LEASE`, with [`FLAG_LEASED`].
    pub lease_slot: u16,
}

/// Who holds an address on this node.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The holder's generation.
    pub generation: u64,
    /// The holder's container.
    pub container_tag: u64,
    /// The holder's link.
    pub link: u32,
    /// Zero.
    pub flags: u32,
    /// The MAC that may answer for the address on the LAN; all zero means that any may.
    pub mac: Mac,
    /// Zero.
    pub pad: [u8; 2],
}

/// A managed pool, by the longest prefix that covers an address.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The agent's number for the pool.
    pub pool: u32,
    /// Zero.
    pub flags: u32,
}

/// Until when leased bindings are good.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// `CLOCK_BOOTTIME`, which unlike the monotonic clock goes on while a machine is suspended.
    pub deadline_ns: u64,
    /// Zero.
    pub reserved: u64,
}

/// A sandbox's process that is watched.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// The container, as in [`Binding::container_tag`].
    pub container_tag: u64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<BindingKey>() == 24 && offset_of!(BindingKey, address) == 8);
    assert!(size_of::<Binding>() == 32 && offset_of!(Binding, state) == 16 && offset_of!(Binding, mac) == 24);
    assert!(size_of::<Owner>() == 32 && offset_of!(Owner, link) == 16 && offset_of!(Owner, mac) == 24);
    assert!(size_of::<Pool>() == 8);
    assert!(size_of::<Lease>() == 16);
    assert!(size_of::<Sandbox>() == 8);
};
