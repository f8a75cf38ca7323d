//! A pod that sends nothing but lies, as fast as it can.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_abi::{Counter, RATE_LINK_BURST};
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::EventKind;
use holdfast_tests::{
    frames,
    guarded::{Node, binding},
    packet_socket::has,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

const NEIGHBOURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);
/// So many lies, or as many as a slow machine manages in this time.
const LIES: u64 = 1_000_000;
const TIME: Duration = Duration::from_secs(20);
/// The neighbour's frames meanwhile, and the pause between two.
const STREAM: u32 = 4_000;
const PAUSE: Duration = Duration::from_micros(300);

/// Keeps the thread on one processor if there are several: each has its own queue of frames that were sent and not
/// looked at yet, and a full one loses the neighbour's without any guard.
fn keep_to(number: usize) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let processors: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let mut only = CpuSet::new();
    only.set(processors[number % processors.len()])?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

#[test]
fn a_neighbour_loses_nothing_and_nothing_goes_uncounted() -> Result<()> {
    let node = Node::new()?;
    let (guard, mut events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let (pod, neighbour) = (node.pod("a")?, node.pod("b")?);
    for pod in [&pod, &neighbour] {
        node.guard(&guard, pod, GuardMode::Enforce)?;
    }
    guard.bind(&binding(&neighbour, NEIGHBOURS, 1))?;
    node.lan.enlarge_buffer()?;
    let mac = pod.socket.mac();
    // The neighbour's address, and every other one of a large subnet.
    let mut lies: Vec<_> =
        (0..8_192u32).map(|number| frames::ipv4(mac, Ipv4Addr::from(0x0a07_1000 + number), "a lie")).collect();
    lies.push(frames::ipv4(mac, NEIGHBOURS, "a lie"));
    lies.push(frames::arp(mac, mac, NEIGHBOURS));

    let begun = Instant::now();
    let (flooded, streamed) = thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<u64> {
            keep_to(0)?;
            let mut sent = 0;
            while sent < LIES && begun.elapsed() < TIME {
                for lie in &lies {
                    pod.socket.send(lie)?;
                    sent += 1;
                }
            }
            Ok(sent)
        });
        let stream = scope.spawn(|| -> Result<()> {
            keep_to(1)?;
            for number in 0..STREAM {
                neighbour.socket.send(&frames::ipv4(
                    neighbour.socket.mac(),
                    NEIGHBOURS,
                    &format!("stream {number:06}"),
                ))?;
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        (flood.join().expect("no panic"), stream.join().expect("no panic"))
    });
    let (sent, took) = (flooded?, begun.elapsed());
    streamed?;
    eprintln!("{sent} lies in {took:?}");

    neighbour.socket.send(&frames::other(neighbour.socket.mac(), "the stream has ended"))?;
    let heard = node.lan.receive_until(|frame| has(frame, "the stream has ended"))?;
    let truths = heard.iter().filter(|frame| has(frame, "stream 0")).count();
    ensure!(truths == STREAM as usize, "{truths} of {STREAM} frames of the neighbour were heard");
    ensure!(!heard.iter().any(|frame| has(frame, "a lie") || frame[6..12] == mac && frame[12..14] == [8, 6]));

    let counters = guard.counters()?;
    let count = |counter| counters.get(counter);
    ensure!(count(Counter::DropForeign) == sent, "{sent} sent: {counters:?}");
    let told = count(Counter::Events);
    ensure!(told + count(Counter::EventsLimited) + count(Counter::EventsLost) == sent, "{counters:?}");
    // Twice: the limit is kept without locks.
    let bound = 2 * u64::from(RATE_LINK_BURST) * (took.as_secs() + 2);
    ensure!(told >= u64::from(RATE_LINK_BURST) && told <= bound, "{told} events in {took:?}");
    for number in 0..told {
        let event = events.try_next().with_context(|| format!("event {number} of {told}"))??;
        ensure!(event.kind == EventKind::Foreign && event.link == pod.link, "{event:?}");
    }
    ensure!(events.try_next().is_none());
    Ok(())
}
