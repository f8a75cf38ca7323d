//! The exit of a sandbox's process.
//!
//! The program leaves the entry in the map, and the agent removes it after handling the exit. If the agent dies before
//! that, or the event is lost because the ring is full, the next comparison with the map finds the dead process.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use holdfast_abi::{Counter, EVENT_SANDBOX};

use crate::{
    events::{count, report},
    maps::SANDBOXES,
};

/// Reports the exit of a sandbox's process. Runs for every thread that exits.
#[inline(always)]
pub(crate) fn exited() {
    let ids = bpf_get_current_pid_tgid();
    let (process, thread) = ((ids >> 32) as u32, ids as u32);
    if process != thread {
        return;
    }
    // SAFETY: the map is preallocated; an entry removed meanwhile has at worst another sandbox's tag, and the agent
    // verifies every event against the process.
    let Some(sandbox) = (unsafe { SANDBOXES.get(process) }) else { return };
    count(Counter::SandboxExits);
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    report(EVENT_SANDBOX, now, |event| {
        event.container_tag = sandbox.container_tag;
        event.process = process;
    });
}
