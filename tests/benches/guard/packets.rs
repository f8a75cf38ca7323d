//! The time of a program for one packet, without an interface.
//!
//! A packet from a bound address took 35 to 40 ns more than the empty program when this was written, of a budget of 50:
//! 24 for the lookup in `BINDINGS`, the rest for headers, MACs and the counter. A packet that fits no binding also pays
//! for the longest match in `POOLS`, some 40 ns, and a dropped packet for the limit on events, which reads the clock
//! and `RATE`.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Result;
use holdfast_tests::{
    frames,
    programs::{MAC, Programs, STALE, V4, V6, cost},
};

use crate::empty::Empty;

const RUNS: u32 = 200_000;
/// The number of rounds; each measures all programs in turn, so that the machine's load affects all of them alike.
const ROUNDS: usize = 15;

pub(crate) fn run() -> Result<()> {
    let programs = Programs::new()?;
    let mut empty = Empty::load()?;
    let outside = Ipv4Addr::new(192, 168, 9, 9);
    let foreign = Ipv4Addr::new(10, 7, 0, 3);
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    let hit = frames::ipv4(MAC, V4, "hello");
    let cases = [
        ("hit: IPv4", "guard_from_pod", hit.clone()),
        ("hit: IPv4 in a VLAN", "guard_from_pod", frames::tagged(&hit, 0x8100, 7)),
        ("hit: IPv6", "guard_from_pod", frames::ipv6(MAC, V6, "hello")),
        ("hit: ARP", "guard_from_pod", frames::arp(MAC, MAC, V4)),
        ("hit: advertisement", "guard_from_pod", frames::advertisement(MAC, V6, V6, MAC)),
        ("miss: IPv4 outside pools", "guard_from_pod", frames::ipv4(MAC, outside, "hello")),
        ("miss: IPv6 outside pools", "guard_from_pod", frames::ipv6(MAC, link_local, "hello")),
        ("miss: neither IP nor ARP", "guard_from_pod", frames::other(MAC, "hello")),
        ("stale: IPv4, flood", "guard_from_pod", frames::ipv4(MAC, STALE, "hello")),
        ("foreign: IPv4, flood", "guard_from_pod", frames::ipv4(MAC, foreign, "hello")),
        ("to the pod: IPv4", "guard_to_pod", frames::ipv4(MAC, outside, "hello")),
        ("to the pod: bound IPv4", "guard_to_pod", frames::ipv4_to(MAC, outside, V4, "hello")),
        ("uplink: IPv4", "watch_uplink", frames::ipv4(MAC, outside, "hello")),
        ("uplink: ARP", "watch_uplink", frames::arp(MAC, MAC, outside)),
    ];
    let mut floor = Vec::new();
    let mut costs = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        floor.push(cost(empty.program()?, &hit, RUNS)?);
        for ((_, program, frame), costs) in cases.iter().zip(&mut costs) {
            costs.push(programs.cost(program, frame, RUNS)?);
        }
    }
    let middle = median(&mut floor);
    println!(
        "# Programs by themselves: ns a packet, median and best of {ROUNDS}, and the best above the empty program's"
    );
    println!("{:28} {:>6} {:>6}", "empty program", middle.as_nanos(), floor[0].as_nanos());
    for ((what, ..), mut costs) in cases.into_iter().zip(costs) {
        let middle = median(&mut costs);
        let above = costs[0].saturating_sub(floor[0]);
        println!("{what:28} {:>6} {:>6} {:>+6}", middle.as_nanos(), costs[0].as_nanos(), above.as_nanos());
    }
    Ok(())
}

/// Sorts and returns the median.
pub(crate) fn median(durations: &mut [Duration]) -> Duration {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}
