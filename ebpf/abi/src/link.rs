//! Links the guard sits on.

/// A hardware address.
pub type Mac = [u8; 6];

/// `IFNAMSIZ`: a name and at least one zero byte.
pub const IF_NAME_LEN: usize = 16;

/// Packets with an address that is not the link's are dropped.
pub const MODE_ENFORCE: u8 = 0;
/// They pass, and are counted and reported.
pub const MODE_OBSERVE: u8 = 1;

/// A pod's link.
pub const ROLE_POD: u8 = 0;
/// The node's way to the LAN.
pub const ROLE_UPLINK: u8 = 1;

/// The programs are filters of a clsact qdisc, not pinned tcx links.
pub const LINK_CLSACT: u32 = 1;
/// The programs sit inside the pod's network namespace; the link's identity is not an interface index of the node.
pub const LINK_INSIDE: u32 = 2;

/// On an uplink: pods share it, so what they send is judged there as well.
pub const LINK_SHARED: u32 = 4;

/// Numbers of links inside pods begin here. The kernel's own grow from 1 and end before.
pub const FIRST_INSIDE: u32 = 0x8000_0000;

/// What the guard knows of a link.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The generation that the link's container was bound with.
    pub generation: u64,
    /// The link's container.
    pub container_tag: u64,
    /// The pod's end of the link; all zero leaves MACs unchecked.
    pub mac: Mac,
    /// [`MODE_ENFORCE`] or [`MODE_OBSERVE`].
    pub mode: u8,
    /// [`ROLE_POD`] or [`ROLE_UPLINK`].
    pub role: u8,
    /// [`LINK_CLSACT`], [`LINK_INSIDE`], [`LINK_SHARED`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// The interface's name, zero-padded. After a restart it leads from the map to the interface.
    pub name: [u8; IF_NAME_LEN],
}

/// A MAC as a key.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacKey {
    /// The MAC.
    pub mac: Mac,
    /// Zero.
    pub pad: [u8; 2],
}

impl MacKey {
    /// The key of `mac`.
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
