//! Floods by pods that send only packets from addresses that are not their own.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use holdfast_abi::Counter;
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::{Datapath, EventKind};
use holdfast_tests::{
    frames,
    guarded::{Node, Pod, Reports, binding},
};
use nix::time::{ClockId, clock_gettime};

const LASTS: Duration = Duration::from_secs(5);
const COUNTERS: [Counter; 5] =
    [Counter::DropForeign, Counter::DropStale, Counter::Events, Counter::EventsLimited, Counter::EventsLost];
/// The number of pods in a flood.
const PODS: u32 = 32;

pub(crate) fn run() -> Result<()> {
    println!("\n# Floods of {} s: a second, and the reader's share of one processor", LASTS.as_secs());
    println!(
        "{:28} {:>9} {:>9} {:>8} {:>9} {:>7} {:>9} {:>7}",
        "", "sent", "dropped", "events", "limited", "lost", "heard", "reader"
    );
    let node = Node::new()?;
    let (guard, mut reports) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let pods = (0..PODS)
        .map(|number| {
            let pod = node.pod(&format!("pod{number}"))?;
            node.guard(&guard, &pod, GuardMode::Enforce)?;
            Ok(pod)
        })
        .collect::<Result<Vec<_>>>()?;
    let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 7, 0, 0)) + number % 65_536);
    let one = address(3);
    flood("one pod, one address", &guard, &mut reports, &pods[..1], |_| one)?;
    flood("one pod, a walk", &guard, &mut reports, &pods[..1], address)?;
    let stale = Ipv4Addr::new(10, 7, 0, 9);
    for pod in &pods[..2] {
        guard.bind(&binding(pod, stale, 1 + u64::from(pod.link.0)))?;
    }
    flood("one pod, a stale address", &guard, &mut reports, &pods[..1], |_| stale)?;
    flood("32 pods, a walk", &guard, &mut reports, &pods, address)?;
    silent_agent(&guard, &mut reports, &pods, address)
}

fn flood(
    what: &str,
    guard: &Datapath,
    reports: &mut Reports,
    pods: &[Pod],
    address: impl Fn(u32) -> Ipv4Addr + Sync,
) -> Result<()> {
    let before = guard.counters()?;
    let ended = AtomicBool::new(false);
    let (sent, heard, busy) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = send(pods, &address);
            ended.store(true, Ordering::Release);
            sent
        });
        let begun = cpu_time();
        let mut heard = 0u64;
        while !ended.load(Ordering::Acquire) {
            heard += u64::from(reports.wait_for(Duration::from_millis(100))?.is_some());
        }
        let busy = cpu_time()?.saturating_sub(begun?);
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        anyhow::Ok((sent, heard, busy))
    })?;
    print(what, guard, &before, sent, heard, busy)
}

/// Measures a flood without a reader: the ring fills up, and the events that do not fit are counted; no packet passes
/// because of that.
fn silent_agent(
    guard: &Datapath,
    reports: &mut Reports,
    pods: &[Pod],
    address: impl Fn(u32) -> Ipv4Addr,
) -> Result<()> {
    let before = guard.counters()?;
    let sent = send(pods, &address)?;
    let mut heard = 0;
    while let Some(event) = reports.try_next() {
        heard += u64::from(event?.kind == EventKind::Foreign);
    }
    print("32 pods, no reader", guard, &before, sent, heard, Duration::ZERO)
}

fn print(
    what: &str,
    guard: &Datapath,
    before: &holdfast_guard::Counters,
    sent: u64,
    heard: u64,
    busy: Duration,
) -> Result<()> {
    let after = guard.counters()?;
    let [foreign, stale, events, limited, lost] =
        COUNTERS.map(|counter| (after.get(counter) - before.get(counter)) / LASTS.as_secs());
    let (sent, heard) = (sent / LASTS.as_secs(), heard / LASTS.as_secs());
    let share = 100.0 * busy.as_secs_f64() / LASTS.as_secs_f64();
    let dropped = foreign + stale;
    println!("{what:28} {sent:>9} {dropped:>9} {events:>8} {limited:>9} {lost:>7} {heard:>9} {share:>6.2}%");
    Ok(())
}

/// Sends for as long as a flood lasts, from all of the pods in turn; returns the number of packets.
fn send(pods: &[Pod], address: &impl Fn(u32) -> Ipv4Addr) -> Result<u64> {
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < LASTS {
        for _ in 0..256 {
            for pod in pods {
                pod.socket.send(&frames::ipv4(pod.socket.mac(), address(sent), "flood"))?;
                sent = sent.wrapping_add(1);
            }
        }
    }
    Ok(sent.into())
}

/// Returns the processor time of this thread.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
