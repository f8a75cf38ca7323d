//! The rate limit on events. The programs apply it, so that a flood costs the agent nothing.

use crate::binding::Address;

/// The length of a window of the rate limit in nanoseconds.
pub const RATE_WINDOW_NS: u64 = 1_000_000_000;
/// The limit on events of one kind for one address on one link in a window.
pub const RATE_KEY_BURST: u32 = 4;
/// The limit on events of one kind on one link in a window, over all addresses: a pod that scans a subnet must not
/// evict the entries of the others from the table.
pub const RATE_LINK_BURST: u32 = 64;

/// The key of one limit. The zero address stands for the link as a whole.
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
    /// The start of the window in nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// The number of events since then.
    pub count: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = {
    assert!(core::mem::size_of::<RateKey>() == 24);
    assert!(core::mem::size_of::<Rate>() == 16);
};
