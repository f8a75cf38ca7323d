//! The guard: programs that check every packet of a pod against the addresses bound to the pod's link.
//!
//! ```text
//!   pod ──eth0══veth──▶ guard_from_pod ──▶ host          pool?  BINDINGS{link, address}
//!                       guard_to_pod   ◀── host                 CURRENT → pass
//!   LAN ─────uplink───▶ watch_uplink   ──▶ host                 STALE   → drop, event
//!   LAN ◀────uplink──── guard_uplink_out ◀── macvlan pods       none    → POOLS? drop, event : pass
//!   process exits ────▶ sandbox_exit
//!                           └──▶ EVENTS ──▶ agent
//! ```
//!
//! A packet with the address and the MAC of its link costs one hash lookup. Pools, modes, the rate limit and events are
//! looked up only for other packets.
//!
//! Two limits of the verifier shape the code:
//!
//! - Before "propagate precision across all frames" (Linux 6.2), the verifier can treat a variable of the caller as
//!   imprecise while it verifies a callee. It then never explores the other outcome of a branch behind the call, and
//!   hard-wires the branch. A condition evaluated before a call to a function of this crate must therefore not be
//!   evaluated again behind it: match first, call in the arms.
//! - A call chain has 512 bytes of stack, with each frame rounded up to 32.
#![no_std]
#![no_main]
#![allow(clippy::needless_pass_by_value, reason = "aya's macros pass the context by value")]

mod arp;
mod conflict;
mod ethernet;
mod events;
mod guard;
mod ip;
mod link;
mod maps;
mod ndp;
mod packed;
mod sandbox;
mod shared_uplink;
mod verdict;

use aya_ebpf::{
    macros::{classifier, raw_tracepoint},
    programs::{RawTracePointContext, TcContext},
};

/// Checks packets from a pod: ingress on the host side of its link, or egress inside its network namespace.
#[classifier]
pub fn guard_from_pod(ctx: TcContext) -> i32 {
    guard::from_pod(&ctx)
}

/// Checks packets to a pod: egress on the host side of its link, or ingress inside its network namespace.
#[classifier]
pub fn guard_to_pod(ctx: TcContext) -> i32 {
    guard::to_pod(&ctx)
}

/// Detects address conflicts with the LAN: ingress on the uplink.
#[classifier]
pub fn watch_uplink(ctx: TcContext) -> i32 {
    let _ = conflict::detect(&ctx);
    verdict::PASS
}

/// Checks frames to the LAN on an uplink that pods share: egress.
#[classifier]
pub fn guard_uplink_out(ctx: TcContext) -> i32 {
    shared_uplink::egress(&ctx)
}

/// Reports the exit of a sandbox's process. A raw tracepoint needs no tracefs, which is not mounted in the agent's pod.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sandbox_exit(_ctx: RawTracePointContext) -> i32 {
    sandbox::exited();
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The licence, which the kernel requires to be GPL-compatible for helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
