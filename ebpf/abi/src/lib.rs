//! The layout of what kernel and user space share: map keys and values, events, counters.
//!
//! Everything is `#[repr(C)]` with its padding spelled out and its size asserted, because the two sides are
//! built by different compilers for different targets, and because pinned maps outlive the agent that made
//! them: an agent of another version finds them again and has to know what it looks at. Whoever changes a
//! layout here raises [`LAYOUT_VERSION`].
//!
//! | map | key | value | written by |
//! |---|---|---|---|
//! | `BINDINGS` | [`BindingKey`] | [`Binding`] | agent |
//! | `OWNERS` | [`Address`] | [`Owner`] | agent |
//! | `LINKS` | link, `u32` | [`Link`] | agent |
//! | `MACS` | [`MacKey`] | link, `u32` | agent |
//! | `POOLS` | [`Address`] prefix | [`Pool`] | agent |
//! | `SANDBOXES` | process, `u32` | [`Sandbox`] | agent |
//! | `LEASE` | slot, `u32` | [`Lease`] | agent |
//! | `RATE` | [`RateKey`] | [`Rate`] | program |
//! | `COUNTERS` | [`Counter`] | `u64` for each CPU | program |
//! | `EVENTS` | – | [`Event`] | program |
//! | `META` | [`META_LAYOUT`], [`META_NEXT_INSIDE`] | `u64` | agent |
#![no_std]
#![warn(missing_docs)]

mod binding;
mod counter;
mod event;
mod link;
mod rate;

pub use binding::{
    Address, Binding, BindingKey, FLAG_LEASED, Lease, Owner, Pool, STATE_CURRENT, STATE_STALE, Sandbox, v4_mapped,
};
pub use counter::Counter;
pub use event::{
    EVENT_CONFLICT, EVENT_FOREIGN, EVENT_LEASE, EVENT_MAC, EVENT_SANDBOX, EVENT_STALE, Event, VIA_ARP, VIA_IP,
    VIA_LINK, VIA_ND,
};
pub use link::{
    FIRST_INSIDE, IF_NAME_LEN, LINK_CLSACT, LINK_INSIDE, LINK_SHARED, Link, MODE_ENFORCE, MODE_OBSERVE, Mac, MacKey,
    ROLE_POD, ROLE_UPLINK,
};
pub use rate::{RATE_KEY_BURST, RATE_LINK_BURST, RATE_WINDOW_NS, Rate, RateKey};

/// Stands in `META` beside the pinned maps. Raised with every change of a layout in this crate.
pub const LAYOUT_VERSION: u16 = 1;

/// Where `META` holds [`LAYOUT_VERSION`].
pub const META_LAYOUT: u32 = 0;

/// Where `META` holds the number of the next link inside a pod; 0 before there was one. It only grows: a number that
/// came again would give one pod's late events, and whatever filter was left behind in it, to another.
pub const META_NEXT_INSIDE: u32 = 1;

#[cfg(feature = "user")]
mod pod {
    // SAFETY of all: `#[repr(C)]`, only integers and arrays of integers, no implicit padding (asserted by size), so
    // every bit pattern is a value and no byte is undefined.
    unsafe impl aya::Pod for super::BindingKey {}
    unsafe impl aya::Pod for super::Binding {}
    unsafe impl aya::Pod for super::Owner {}
    unsafe impl aya::Pod for super::Pool {}
    unsafe impl aya::Pod for super::Lease {}
    unsafe impl aya::Pod for super::Sandbox {}
    unsafe impl aya::Pod for super::Link {}
    unsafe impl aya::Pod for super::MacKey {}
    unsafe impl aya::Pod for super::RateKey {}
    unsafe impl aya::Pod for super::Rate {}
}
