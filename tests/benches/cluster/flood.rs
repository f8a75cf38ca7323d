//! The agent's memory and processor time while pods send only packets from addresses that are not their own.
//!
//! The benchmark `guard` measures the cost of a packet in the kernel and the events that the rate limit holds back.
//! Here the whole agent runs: it logs each event that comes through, records Kubernetes events and examines the link.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    agent::{Agent, Metrics, Vitals},
    pod::Port,
    workload::{Holder, NOBODYS, Workload},
};

const PACKETS: u32 = 1_000_000;
/// The interval between two samples of the agent's memory.
const LOOK: Duration = Duration::from_millis(20);
/// The pause after a flood, until the agent is idle.
const REST: Duration = Duration::from_secs(10);
const COUNTED: [&str; 4] = [
    r#"holdfast_guard_drops_total{kind="drop_foreign"}"#,
    r#"holdfast_guard_events_total{kind="events"}"#,
    r#"holdfast_guard_events_total{kind="events_limited"}"#,
    r#"holdfast_guard_events_lost_total{kind="events_lost"}"#,
];

pub(crate) fn run(workload: &Workload<'_>, pods: &[Holder]) -> Result<()> {
    let node = pods.first().context("there are pods")?.node.clone();
    let agent = Agent::on(workload.world, &node)?;
    let here = pods.iter().filter(|holder| holder.node == node);
    let ports = here.map(|holder| Port::open(&holder.container)).collect::<Result<Vec<_>>>()?;
    println!("\n# Floods of {PACKETS} packets: the agent's memory (kB), and its share of one processor");
    println!(
        "{:24} {:>8} {:>9} {:>7} {:>9} {:>5} {:>8} {:>8} {:>8} {:>7} {:>7}",
        "", "a second", "dropped", "events", "limited", "lost", "before", "highest", "after", "during", "after"
    );
    let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::from(NOBODYS)) + 1 + number % 32_766);
    let one = address(0);
    flood("one pod, one address", &agent, &ports[..1], |_| one)?;
    flood("one pod, a walk", &agent, &ports[..1], address)?;
    flood(&format!("{} pods, a walk", ports.len()), &agent, &ports, address)
}

fn flood(what: &str, agent: &Agent, ports: &[Port], address: impl Fn(u32) -> Ipv4Addr + Sync) -> Result<()> {
    let (counted, before, begun) = (agent.metrics()?, agent.vitals()?, Instant::now());
    let mut highest = before.resident;
    let took = thread::scope(|scope| {
        let sender = scope.spawn(|| send(ports, &address));
        while !sender.is_finished() {
            highest = highest.max(agent.vitals()?.resident);
            thread::sleep(LOOK);
        }
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        anyhow::Ok(begun.elapsed())
    })?;
    let during = agent.vitals()?;
    thread::sleep(REST);
    let after = agent.vitals()?;
    let [dropped, events, limited, lost] = difference(&counted, &agent.metrics()?)?;
    println!(
        "{what:24} {:>8.0} {dropped:>9} {events:>7} {limited:>9} {lost:>5} {:>8} {:>8} {:>8} {:>6.2}% {:>6.2}%",
        f64::from(PACKETS) / took.as_secs_f64(),
        before.resident,
        highest.max(during.resident),
        after.resident,
        share(before, during, took),
        share(during, after, REST),
    );
    Ok(())
}

/// Sends from all of the pods in turn.
fn send(ports: &[Port], address: &impl Fn(u32) -> Ipv4Addr) -> Result<()> {
    let mut turns = ports.iter().cycle();
    for number in 0..PACKETS {
        let port = turns.next().context("there is a pod")?;
        port.send(&port.frame_from(address(number).into()))?;
    }
    Ok(())
}

fn difference(before: &Metrics, after: &Metrics) -> Result<[f64; 4]> {
    let mut counts = [0.0; 4];
    for (count, line) in counts.iter_mut().zip(COUNTED) {
        *count = after.value(line)? - before.value(line)?;
    }
    Ok(counts)
}

/// Returns the processor time between two samples, in percent of one processor.
fn share(from: Vitals, to: Vitals, time: Duration) -> f64 {
    100.0 * to.busy.saturating_sub(from.busy).as_secs_f64() / time.as_secs_f64()
}
