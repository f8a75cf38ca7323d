//! The limit on events, kept in the kernel so that a flood costs the agent nothing.

use crate::Address;

/// How long a window of the limit lasts.
pub const RATE_WINDOW_NS: u64 = 1_000_000_000;
/// Events of one kind for one address on one link in a window.
pub const RATE_KEY_BURST: u32 = 4;
/// Events of one kind on one link in a window, over all addresses: a pod that walks through a subnet must not push
/// everyone else's entries out of the table.
pub const RATE_LINK_BURST: u32 = 64;

/// What is limited together. An all-zero address stands for the link as a whole.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateKey {
    /// The link.
    pub link: u32,
    /// The event's kind.
    pub kind: u32,
    /// The address.
    pub address: Address,
}

/// The state of one limit.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// When the window began, on the monotonic clock.
    pub since_ns: u64,
    /// Events since then.
    pub count: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = {
    assert!(core::mem::size_of::<RateKey>() == 24);
    assert!(core::mem::size_of::<Rate>() == 16);
};
