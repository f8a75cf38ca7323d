//! Measurements of the guard: its cost, and the latency of its events. They print numbers and have no limits, because
//! numbers depend on the machine and its load. `cargo xtask bench guard` runs them.
//!
//! ```text
//! programs   one program by itself, BPF_PROG_TEST_RUN    ─┐ each beside a program that does nothing
//! stream     UDP through a pod's veth, both ways         ─┘ and, on the veth, beside no program at all
//! flood      a pod that sends what is not its own: what is dropped, reported, kept back, lost
//! latency    a stale packet, a killed sandbox → the agent
//! ```

mod deaths;
mod empty;
mod flood;
mod latency;
mod packets;
mod stream;

fn main() -> anyhow::Result<()> {
    packets::run()?;
    stream::run()?;
    flood::run()?;
    latency::run()?;
    deaths::run()
}
