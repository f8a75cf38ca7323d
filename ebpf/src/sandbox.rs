//! The death of a sandbox, at the moment its process ends.

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
    let sent = report(EVENT_SANDBOX, now, |event| {
        event.container_tag = sandbox.container_tag;
        event.process = process;
    });
    // An event that found no room leaves its entry, by which the agent's sweep finds the dead process.
    if sent {
        let _ = SANDBOXES.remove(process);
    }
}
