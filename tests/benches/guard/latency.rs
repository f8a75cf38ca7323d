//! The time from a stale packet to the agent.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use holdfast_abi::{Counter, RATE_LINK_BURST, RATE_WINDOW_NS};
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::{EventKind, GuardEvent};
use holdfast_tests::{
    frames,
    guarded::{Node, Reports, binding, counted},
};
use nix::time::{ClockId, clock_gettime};

use crate::packets::median;

const PACKETS: u32 = 256;
const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<()> {
    let node = Node::new()?;
    let (guard, reports) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let pod = node.pod("pod")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    let (mut seen, mut heard) = (Vec::new(), Vec::new());
    listen(reports, |next| {
        for number in 0..PACKETS {
            // Each address is used for the first time, because the limit holds later events of an address back for a
            // while.
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 7, 1, 0)) + number);
            guard.bind(&binding(&pod, address, 1))?;
            guard.mark_stale(pod.link, address.into())?;
            let frame = frames::ipv4(pod.socket.mac(), address, "stale");
            let sent = now()?;
            pod.socket.send(&frame)?;
            let (event, at) = next()?;
            if event.kind != EventKind::Stale || event.address != IpAddr::from(address) {
                bail!("another event came: {event:?}");
            }
            seen.push(Duration::from_nanos(event.timestamp_ns).saturating_sub(sent));
            heard.push(at.saturating_sub(sent));
            guard.unbind(pod.link, address.into())?;
            if (number + 1) % (RATE_LINK_BURST / 2) == 0 {
                // A link may report so many in a second.
                std::thread::sleep(Duration::from_nanos(RATE_WINDOW_NS));
            }
        }
        Ok(())
    })?;
    let dropped = counted(&guard, Counter::DropStale)?;
    println!("\n# Stale packets: {dropped} of {PACKETS} first packets dropped");
    line("sent → seen, dropped", &mut seen);
    line("sent → heard in user space", &mut heard);
    Ok(())
}

/// Runs `work` with a source of events, each with the time at which a waiting reader, such as the agent, received it.
pub(crate) fn listen(
    mut reports: Reports,
    work: impl FnOnce(&dyn Fn() -> Result<(GuardEvent, Duration)>) -> Result<()>,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(event) = reports.wait_for(LIMIT)
            && let Ok(at) = now()
        {
            if let Some(event) = event
                && sender.send((event, at)).is_err()
            {
                break;
            }
        }
    });
    work(&|| receiver.recv_timeout(LIMIT).with_context(|| format!("no event within {LIMIT:?}")))
}

/// Returns the time of the clock that events are stamped with.
pub(crate) fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// Prints the distribution.
pub(crate) fn line(what: &str, durations: &mut [Duration]) {
    let middle = median(durations);
    let at = |percent: usize| durations.get(durations.len() * percent / 100).copied().unwrap_or_default();
    let (low, high, last) = (at(0), at(99), durations.last().copied().unwrap_or_default());
    println!("{what:28} min {low:>9.1?}  p50 {middle:>9.1?}  p99 {high:>9.1?}  max {last:>9.1?}");
}
