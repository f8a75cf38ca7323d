//! The links that the programs are attached to.

/// A MAC address.
pub type Mac = [u8; 6];

/// `IFNAMSIZ`: the size of a name with its zero byte.
pub const IF_NAME_LEN: usize = 16;

/// Enforce mode: packets with an address that is not bound to the link are dropped.
pub const MODE_ENFORCE: u8 = 0;
/// Observe mode: such packets pass, and are counted and reported.
pub const MODE_OBSERVE: u8 = 1;

/// A pod's link.
pub const ROLE_POD: u8 = 0;
/// The node's uplink to the LAN.
pub const ROLE_UPLINK: u8 = 1;

/// The programs are filters on a clsact qdisc, not pinned tcx links.
pub const LINK_CLSACT: u32 = 1;
/// The programs are attached inside the pod's network namespace; the link's identity is from [`FIRST_INSIDE`] on.
pub const LINK_INSIDE: u32 = 2;

/// Pods share the uplink (macvlan), so their frames are checked on its egress as well.
pub const LINK_SHARED: u32 = 4;

/// The first identity of a link inside a pod. Interface indexes are smaller: they are positive signed integers.
pub const FIRST_INSIDE: u32 = 0x8000_0000;

/// A link and its pod.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The generation of the bindings of the link's container.
    pub generation: u64,
    /// The tag of the link's container.
    pub container_tag: u64,
    /// The MAC of the pod's end of the link; the zero MAC allows any.
    pub mac: Mac,
    /// [`MODE_ENFORCE`] or [`MODE_OBSERVE`].
    pub mode: u8,
    /// [`ROLE_POD`] or [`ROLE_UPLINK`].
    pub role: u8,
    /// The sum of [`LINK_CLSACT`], [`LINK_INSIDE`] and [`LINK_SHARED`] as they apply.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// The interface's name, zero-padded, by which the agent finds the interface after a restart.
    pub name: [u8; IF_NAME_LEN],
}

/// A MAC as the key of `MACS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacKey {
    /// The MAC.
    pub mac: Mac,
    /// Zero.
    pub pad: [u8; 2],
}

impl MacKey {
    /// Returns the key of `mac`.
    #[must_use]
    #[inline]
    pub const fn new(mac: Mac) -> Self {
        Self { mac, pad: [0; 2] }
    }
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Link>() == 48 && offset_of!(Link, mode) == 22 && offset_of!(Link, name) == 32);
    assert!(size_of::<MacKey>() == 8);
};
