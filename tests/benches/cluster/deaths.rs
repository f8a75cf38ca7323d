//! Kills a sandbox's process while its runtime runs: the time until the agent knows, and the time until the runtime's
//! DEL tells it.
//!
//! ```text
//! killed ─▶ agent logs the end ─▶ endpoint loses its holder (a second look agrees)
//!        └▶ containerd, kubelet notice ─▶ DEL reaches the agent ─▶ ADD: endpoint names the new sandbox
//! ```
//!
//! The agent's part is read from the times in its log, which are of the clock that the kill is timed with. The time of
//! DEL is the time of its answer minus its duration; for that the server has to log at debug level.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use xtask::progress::Poll;

use crate::{
    agent::Agent,
    figures::Figures,
    pod::process_of,
    watch::{Watch, names},
    workload::{Holder, Workload},
};

/// The pause between two deaths, after which the new sandbox of the last one is settled.
const REST: Duration = Duration::from_secs(2);

/// The times from a kill to the events that follow it.
struct Death {
    known: Duration,
    shown: Duration,
    del: Duration,
    bound: Duration,
}

pub(crate) fn run(workload: &Workload<'_>, pods: &[Holder]) -> Result<()> {
    println!("\n# A sandbox's process killed → …");
    let mut known = Figures::new("killed → the agent knows");
    let mut shown = Figures::new("killed → the endpoint has no holder");
    let mut del = Figures::new("killed → the runtime's DEL comes");
    let mut bound = Figures::new("killed → the endpoint names a new sandbox");
    let mut watch = workload.world.block_on(Watch::begin(workload.endpoints()))?;
    for holder in pods {
        let death = die(workload, &mut watch, holder)?;
        println!(
            "{:12} agent {:>8.1?}  endpoint {:>8.1?}  DEL {:>8.1?}  new sandbox {:>8.1?}",
            holder.pod, death.known, death.shown, death.del, death.bound
        );
        known.add(death.known);
        shown.add(death.shown);
        del.add(death.del);
        bound.add(death.bound);
        std::thread::sleep(REST);
    }
    known.print_beside(&[(50, Duration::from_millis(10)), (100, Duration::from_millis(10))]);
    shown.print_beside(&[(50, Duration::from_secs(1)), (100, Duration::from_secs(1))]);
    del.print();
    bound.print();
    Ok(())
}

fn die(workload: &Workload<'_>, watch: &mut Watch, holder: &Holder) -> Result<Death> {
    let world = workload.world;
    let agent = Agent::on(world, &holder.node)?;
    let process = process_of(&holder.container)?;
    let (killed, killed_at) = (Instant::now(), Timestamp::now());
    kill(process, Signal::SIGKILL).with_context(|| format!("killing the sandbox of {}", holder.pod))?;
    let (shown, bound) = world.block_on(async {
        let (current, shown) = watch.record(&holder.pod, |current| !names(current, &holder.container)).await?;
        if current.container_id.is_some() {
            return anyhow::Ok((shown, shown));
        }
        let (_, bound) = watch.record(&holder.pod, |current| current.container_id.is_some()).await?;
        Ok((shown, bound))
    })?;
    let (known, del) = world.wait("the agent's log", || {
        let lines = agent.said(world, killed.elapsed())?;
        let ended = lines.iter().find(|line| {
            line["message"] == "a sandbox's process ended" && line["container"] == holder.container.as_str()
        });
        let answered = lines.iter().find(|line| {
            let span = &line["span"];
            line["message"] == "answered" && span["verb"] == "DEL" && span["container"] == holder.container.as_str()
        });
        Ok(match (ended, answered) {
            (Some(ended), Some(answered)) => {
                let took = answered["took"].as_str().and_then(duration).context("how long DEL took")?;
                Poll::Ready((after(killed_at, ended)?, after(killed_at, answered)?.saturating_sub(took)))
            }
            (ended, answered) => {
                Poll::Pending(format!("death: {}, DEL answered: {}", ended.is_some(), answered.is_some()))
            }
        })
    })?;
    Ok(Death { known, shown: shown - killed, del, bound: bound - killed })
}

/// Returns the time from a moment to a line of the log.
fn after(moment: Timestamp, line: &Value) -> Result<Duration> {
    let logged: Timestamp = line["timestamp"].as_str().context("a line of the log has a time")?.parse()?;
    // The log's times end at the microsecond, so a line may seem a little older than it is.
    Ok(Duration::try_from(logged.duration_since(moment)).unwrap_or_default())
}

/// Parses a duration as it is logged, for example `1.5ms`.
fn duration(text: &str) -> Option<Duration> {
    let units = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, unit) = units.into_iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * unit))
}
