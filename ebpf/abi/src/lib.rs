//! The layouts that kernel and user space share: map keys and values, events, counters.
//!
//! Every type is `#[repr(C)]` with explicit padding and an asserted size: different compilers build the two sides for
//! different targets, and pinned maps outlive the agent that created them, so that an agent of another version reads
//! them. A change of a layout here needs a new [`LAYOUT_VERSION`].
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
mod meta;
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
pub use meta::{LAYOUT_VERSION, META_LAYOUT, META_NEXT_INSIDE};
pub use rate::{RATE_KEY_BURST, RATE_LINK_BURST, RATE_WINDOW_NS, Rate, RateKey};

#[cfg(feature = "user")]
mod pod {
    // SAFETY of all: `#[repr(C)]`, only integers and arrays of integers, no implicit padding (asserted by size), so
    // every bit pattern is a value and every byte is initialised.
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
