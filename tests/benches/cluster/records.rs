//! The time until a record that names an older container than the living one is corrected.
//!
//! By a packet: the record and the kernel's table are put into the state that a crash between link and record leaves,
//! the table without the address for the pod's link, the record with an older container. The pod's first packet is
//! dropped and reported; what is measured is the way from there to the record that names the living container, and to
//! the table that lets its packets pass. The watch of records would mend the same, half a second later: see below.
//!
//! By the record alone: nothing is wrong with the pod's packets, so the guard has nothing to report; the agent hears of
//! the changed record by its watch, and gives an ADD time to end before it takes the difference for one.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    figures::Figures,
    pod::{Bindings, Port},
    watch::{Watch, names},
    workload::{Holder, Workload},
};

/// The pause after each, until the effects of the changed record through the watch are over.
const REST: Duration = Duration::from_millis(1_200);
/// The interval between two reads of the kernel's table.
const LOOK: Duration = Duration::from_micros(200);
/// The number of pods that are measured without a wrong packet.
const QUIET: usize = 10;

pub(crate) fn run(workload: &Workload<'_>, pods: &[Holder]) -> Result<()> {
    let mut tables = BTreeMap::new();
    for node in workload.world.lab().nodes() {
        let process = node.leader_pid().with_context(|| format!("{} is off", node.name()))?;
        tables.insert(node.name().to_owned(), Bindings::of_node(process)?);
    }
    workload.world.block_on(async {
        let mut watch = Watch::begin(workload.endpoints()).await?;
        by_packet(workload, &mut watch, &mut tables, pods).await?;
        by_record(workload, &mut watch, &pods[..QUIET.min(pods.len())]).await
    })
}

/// Writes an older container into the record and waits until the watch reports it.
async fn leave_behind(workload: &Workload<'_>, watch: &mut Watch, pod: &str, older: &str) -> Result<()> {
    workload.patch(pod, &json!({"status": {"current": {"containerID": older}}})).await?;
    watch.record(pod, |holder| names(holder, older)).await.map(drop)
}

async fn by_packet(
    workload: &Workload<'_>,
    watch: &mut Watch,
    tables: &mut BTreeMap<String, Bindings>,
    pods: &[Holder],
) -> Result<()> {
    println!("# The first packet of a container that the records do not name → corrected");
    let mut corrected = Figures::new("packet → record names the container");
    let mut passes = Figures::new("packet → its packets pass");
    for family in ["IPv4", "IPv6"] {
        for (number, holder) in pods.iter().enumerate() {
            let of_family = |address: &&IpAddr| address.is_ipv4() == (family == "IPv4");
            let Some(&address) = holder.addresses.iter().find(of_family) else { continue };
            let port = Port::open(&holder.container)?;
            let frame = port.frame_from(address);
            let table = tables.get_mut(&holder.node).with_context(|| holder.node.clone())?;
            leave_behind(workload, watch, &holder.pod, &format!("older-{number}-{family}")).await?;
            table.make_stale(port.link, address)?;
            let sent = Instant::now();
            port.send(&frame)?;
            let (_, at) = watch.record(&holder.pod, |current| names(current, &holder.container)).await?;
            while !table.is_current(port.link, address)? {
                tokio::time::sleep(LOOK).await;
            }
            let (record, table) = (at - sent, sent.elapsed());
            println!("{:12} {family}  record {record:>8.1?}  packets {table:>8.1?}", holder.pod);
            corrected.add(record);
            passes.add(table);
            tokio::time::sleep(REST).await;
        }
    }
    corrected.print_beside(&[(50, Duration::from_secs(1)), (100, Duration::from_secs(1))]);
    passes.print();
    Ok(())
}

async fn by_record(workload: &Workload<'_>, watch: &mut Watch, pods: &[Holder]) -> Result<()> {
    println!("\n# A record set to an older container, its pod's traffic unharmed → corrected");
    let mut corrected = Figures::new("record changed → changed back");
    for (number, holder) in pods.iter().enumerate() {
        let address = holder.addresses.first().context("a pod has an address")?.to_string();
        let mut ping = workload.world.lab().in_lan(&["ping", "-n", "-i", "0.02", &address]);
        let ping = ping.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let changed = Instant::now();
        leave_behind(workload, watch, &holder.pod, &format!("older-{number}")).await?;
        let (_, at) = watch.record(&holder.pod, |current| names(current, &holder.container)).await?;
        tokio::time::sleep(REST).await;
        kill(Pid::from_raw(i32::try_from(ping.id())?), Signal::SIGINT)?;
        let said = String::from_utf8(ping.wait_with_output()?.stdout)?;
        let summary = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or("ping said nothing");
        println!("{:12} {:>8.1?}  {summary}", holder.pod, at - changed);
        corrected.add(at - changed);
    }
    corrected.print_beside(&[(50, Duration::from_secs(1)), (100, Duration::from_secs(1))]);
    Ok(())
}
