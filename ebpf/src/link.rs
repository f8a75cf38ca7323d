//! The identity and the settings of the link that a packet is on.

use aya_ebpf::programs::TcContext;
use holdfast_abi::{Link, MODE_OBSERVE};

use crate::maps::LINKS;

/// The link's identity for a program inside a pod's network namespace, where interface indexes repeat from pod to pod.
/// The loader sets it, from `FIRST_INSIDE` on; 0 selects the interface index.
#[unsafe(no_mangle)]
static LINK_ID: u32 = 0;

/// Returns the identity of the link that the packet is on.
#[inline(always)]
pub(crate) fn id(ctx: &TcContext) -> u32 {
    // SAFETY: reads the program's own constant; volatile because the loader changes it after compilation.
    let id = unsafe { core::ptr::read_volatile(&raw const LINK_ID) };
    // SAFETY: the context is valid while the program runs.
    if id == 0 { unsafe { (*ctx.skb.skb).ifindex } } else { id }
}

/// Returns the link's entry in `LINKS`.
#[inline(always)]
pub(crate) fn get(link: u32) -> Option<&'static Link> {
    // SAFETY: the agent may remove the entry meanwhile; its memory then stays that of some link until the program ends.
    unsafe { LINKS.get(link) }
}

/// Returns true if the link is in observe mode.
#[inline(always)]
pub(crate) fn observes(link: u32) -> bool {
    get(link).is_some_and(|value| value.mode == MODE_OBSERVE)
}
