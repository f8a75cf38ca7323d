//! The bindings of addresses to links.

use crate::link::Mac;

/// An IPv6 address in network order; IPv4 is v4-mapped (`::ffff:a.b.c.d`).
pub type Address = [u8; 16];

/// Returns `a.b.c.d` as `::ffff:a.b.c.d`.
#[must_use]
#[inline]
pub const fn v4_mapped(address: [u8; 4]) -> Address {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The key of a binding: an address on a link.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingKey {
    /// The link's identity: its interface index on the node, or from [`FIRST_INSIDE`](crate::FIRST_INSIDE) on for a
    /// link inside a pod.
    pub link: u32,
    /// Zero.
    pub pad: u32,
    /// The address.
    pub address: Address,
}

impl BindingKey {
    /// Returns the key of `address` on `link`.
    #[must_use]
    #[inline]
    pub const fn new(link: u32, address: Address) -> Self {
        Self { link, pad: 0, address }
    }
}

/// The link holds the address: packets with it pass.
pub const STATE_CURRENT: u32 = 1;
/// The address has a newer holder: packets with it are dropped from and to this link.
pub const STATE_STALE: u32 = 2;

/// The binding is valid only until [`Lease::deadline_ns`] of its slot.
pub const FLAG_LEASED: u32 = 1;

/// The binding of an address to a link.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The generation of the binding, its fencing token.
    pub generation: u64,
    /// The container's tag: eight bytes of the digest of its ID.
    pub container_tag: u64,
    /// [`STATE_CURRENT`] or [`STATE_STALE`].
    pub state: u32,
    /// [`FLAG_LEASED`] or 0.
    pub flags: u32,
    /// The only MAC that may use the address; the zero MAC allows any. A copy of the link's, so that the hot path needs
    /// one lookup.
    pub mac: Mac,
    /// The index into `LEASE`, with [`FLAG_LEASED`].
    pub lease_slot: u16,
}

/// The holder of an address on this node.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The holder's generation.
    pub generation: u64,
    /// The tag of the holder's container.
    pub container_tag: u64,
    /// The holder's link.
    pub link: u32,
    /// Zero.
    pub flags: u32,
    /// The only MAC that may answer for the address on the LAN; the zero MAC allows any.
    pub mac: Mac,
    /// Zero.
    pub pad: [u8; 2],
}

/// The managed pool of a prefix.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The number that the agent assigned to the pool.
    pub pool: u32,
    /// Zero.
    pub flags: u32,
}

/// The deadline of leased bindings.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The deadline in nanoseconds of `CLOCK_BOOTTIME`, which unlike `CLOCK_MONOTONIC` includes suspended time.
    pub deadline_ns: u64,
    /// Zero.
    pub reserved: u64,
}

/// The sandbox of a watched process.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// The container's tag, as in [`Binding::container_tag`].
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
