//! The death of a sandbox, at the moment its process ends.
//!
//! The entry stays: the agent removes it once it has handled the death. One that dies between hearing of a death and
//! acting on it leaves the entry, by which the next agent finds the dead process, and an event that found no room in the
//! ring is made up for in the same way.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use holdfast_abi::{Counter, EVENT_SANDBOX};

use crate::{
    maps::SANDBOXES,
    report::{count, report},
};

/// Runs for every thread that ends.
#[inline(always)]
pub(crate) fn exited() {
    let ids = bpf_get_current_pid_tgid();
    let (process, thread) = ((ids >> 32) as u32, ids as u32);
    if process != thread {
        return;
    }
    // SAFETY: the map is preallocated; an entry removed meanwhile is at worst another sandbox's tag, and the agent looks
    // at the process before it believes an event.
    let Some(sandbox) = (unsafe { SANDBOXES.get(process) }) else { return };
    count(Counter::SandboxExits);
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    report(EVENT_SANDBOX, now, |event| {
        event.container_tag = sandbox.container_tag;
        event.process = process;
    });
}
