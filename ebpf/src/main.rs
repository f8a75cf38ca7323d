//! The guard: programs that check every packet of a pod against the addresses the pod holds.
//!
//! ```text
//!   pod ──eth0══veth──▶ guard_from_pod ──▶ host          pool?  BINDINGS{link, address}
//!                       guard_to_pod   ◀── host                 CURRENT → pass
//!   LAN ─────uplink───▶ watch_uplink   ──▶ host                 STALE   → drop, event
//!   LAN ◀────uplink──── guard_uplink_out ◀── macvlan pods       none    → POOLS? drop, event : pass
//!   process ends ─────▶ sandbox_exit
//!                           └──▶ EVENTS ──▶ agent
//! ```
//!
//! A packet that a pod rightly sends costs one hash lookup. Everything else (pools, modes, rate limit, events) is
//! only looked at once a packet does not fit.
//!
//! A verifier of the 5.x kernels may take what it knows of the caller's variables for unimportant while it is in a called
//! function (fixed by "propagate precision across all frames", Linux 6.2). A branch behind the call is then never looked at
//! for the other value, and wired dead. So nothing that was decided before a call to a function of ours is decided again
//! behind it: match first, call in the arms. And a call chain has 512 bytes of stack, each frame rounded up to 32.
#![no_std]
#![no_main]
#![allow(clippy::needless_pass_by_value, reason = "aya's macros pass the context by value")]

mod arp;
mod frame;
mod guard;
mod ip;
mod maps;
mod neighbour;
mod report;
mod sandbox;
mod shared;
mod uplink;
mod words;

use aya_ebpf::{
    macros::{classifier, raw_tracepoint},
    programs::{RawTracePointContext, TcContext},
};

/// What a pod sends: ingress on the host side of its link, or egress inside its network namespace.
#[classifier]
pub fn guard_from_pod(ctx: TcContext) -> i32 {
    guard::from_pod(&ctx)
}

/// What a pod gets: egress on the host side of its link, or ingress inside.
#[classifier]
pub fn guard_to_pod(ctx: TcContext) -> i32 {
    guard::to_pod(&ctx)
}

/// What the LAN sends: ingress on the uplink.
#[classifier]
pub fn watch_uplink(ctx: TcContext) -> i32 {
    let _ = uplink::watch(&ctx);
    guard::PASS
}

/// What leaves by an uplink that pods share: egress.
#[classifier]
pub fn guard_uplink_out(ctx: TcContext) -> i32 {
    shared::leaves(&ctx)
}

/// A thread ends. Raw, because that needs no tracefs, which an agent in a pod does not see.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sandbox_exit(_ctx: RawTracePointContext) -> i32 {
    sandbox::exited();
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Helpers used here are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
