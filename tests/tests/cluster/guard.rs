//! A pod that takes its neighbour's address: its packets are dropped and reported, and the neighbour is not disturbed.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::json;
use xtask::progress::output;

use crate::namespace::{Holder, TestNamespace, same};
use crate::spoofer::Spoofer;
use crate::traffic::Pings;
use crate::{agents, manifest, sandbox, traffic};

/// Pings the LAN's host from inside a pod; returns true if it answers.
fn ping(namespace: &TestNamespace, pod: &str, from: &str, to: &str) -> Result<bool> {
    let mut command = namespace.world.cluster.kubectl(&["-n", &namespace.name, "exec", pod, "--"]);
    command.args(["ping", "-c", "2", "-W", "1", "-I", from, to]);
    Ok(command.output()?.status.success())
}

/// Adds an address to the pod's interface.
fn take(namespace: &TestNamespace, thief: &Holder, address: &str) -> Result<()> {
    if address.contains('.') {
        let add = ["exec", "web-0", "--", "ip", "addr", "add", &format!("{address}/32"), "dev", "eth0"];
        return namespace.kubectl(&add).map(drop);
    }
    // Busybox cannot leave out the search for duplicates, which would keep the address from being used.
    let net = format!("--net=/proc/{}/ns/net", sandbox::process_of(&thief.container)?);
    let add = [&net, "ip", "addr", "add", &format!("{address}/128"), "dev", "eth0", "nodad"];
    output(Command::new("nsenter").args(add)).map(drop)
}

fn steal(namespace: &TestNamespace, thief: &Holder, victim: &Holder) -> Result<()> {
    for (index, address) in victim.addresses().into_iter().enumerate() {
        let (own, lan) = (thief.addresses()[index], traffic::LAN[index]);
        ensure!(ping(namespace, "web-0", own, lan)?, "the pod does not get through from its own address {own}");
        take(namespace, thief, address)?;
        let since = Instant::now();
        ensure!(!ping(namespace, "web-0", address, lan)?, "the pod got through from its neighbour's address {address}");
        let line = agents::wait_for_log(namespace.world, &thief.node, since, &["Foreign", &format!("\"{address}\"")])?;
        same("dropped", &line["dropped"], &json!(true))?;
        for (kind, name) in [("Pod", "web-0"), ("StatefulSet", "web")] {
            namespace.reported(kind, name, "SourceViolation", &[address, &thief.container, "dropped"])?;
        }
        ensure!(ping(namespace, "web-0", own, lan)?, "its own address {own} should go on working");
    }
    Ok(())
}

#[test]
fn a_pod_cannot_use_its_neighbours_address() -> Result<()> {
    let namespace = TestNamespace::shared("guard", 5)?;
    let mut set = manifest::stateful_set("web", 2);
    let container = &mut set["spec"]["template"]["spec"]["containers"][0];
    container["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    namespace.apply(set)?;
    let (thief, victim) = (namespace.ready("web-0")?, namespace.ready("web-1")?);
    traffic::reaches(namespace.world, &victim)?;
    let pings = victim.addresses().map(|address| Pings::from_lan(namespace.world, address));
    steal(&namespace, &thief, &victim)?;
    for pings in pings {
        pings?.all_answered(100)?;
    }
    for (from, to) in victim.addresses().into_iter().zip(traffic::LAN) {
        ensure!(ping(&namespace, "web-1", from, to)?, "the neighbour itself does not get through any more");
    }
    same("the neighbour's record", &namespace.holder("web-1")?, &victim)?;
    for counted in [
        r#"holdfast_guard_packets_total{kind="pass_current"}"#,
        r#"holdfast_guard_drops_total{kind="drop_foreign"}"#,
        r#"holdfast_guard_events_total{kind="events"}"#,
        r#"holdfast_bindings{state="current"}"#,
        r#"holdfast_cni_seconds_count{verb="ADD"}"#,
    ] {
        ensure!(agents::metric(namespace.world, &thief.node, counted)? > 0.0, "{counted} is 0");
    }
    for there in [r#"holdfast_guard_events_lost_total{kind="events_lost"}"#, "holdfast_fence_seconds_count"] {
        agents::metric(namespace.world, &thief.node, there)?;
    }
    namespace.finish()
}

/// Memory and processor time of the agent's process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    resident_kib: u64,
    cpu: Duration,
}

impl Usage {
    fn of(process: Pid) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<_> = stat.rsplit_once(')').context("a name in parentheses")?.1.split_whitespace().collect();
        // proc(5): utime and stime, in ticks of which a second has a hundred.
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Self {
            resident_kib: resident.trim().trim_end_matches(" kB").parse()?,
            cpu: Duration::from_millis(ticks * 10),
        })
    }
}

/// A million packets, each from another address of the pool's network that is not the pod's.
#[test]
fn a_flood_disturbs_neither_the_neighbour_nor_the_agent() -> Result<()> {
    let namespace = TestNamespace::exclusive("flood", 200)?;
    let world = namespace.world;
    namespace.apply(manifest::stateful_set("web", 2))?;
    let (flooder, neighbour) = (namespace.ready("web-0")?, namespace.ready("web-1")?);
    let (agent, _) = agents::container(world, &flooder.node)?;
    let process = sandbox::process_of(&agent)?;
    let net = namespace.net4().try_into()?;
    let spoofer = Spoofer::new(world, &flooder)?;
    let own: Vec<Ipv4Addr> =
        [&flooder, &neighbour].map(|holder| holder.addresses()[0].parse()).into_iter().collect::<Result<_, _>>()?;
    let foreign: Vec<_> =
        (1..=200).map(|last| Ipv4Addr::new(172, 22, net, last)).filter(|it| !own.contains(it)).collect();
    // Once for whatever is made at the first use.
    spoofer.flood(10_000, |number| foreign[number as usize % foreign.len()])?;
    let limited = "holdfast_guard_events_total{kind=\"events_limited\"}";
    let (before, kept_back, begun) =
        (Usage::of(process)?, agents::metric(world, &flooder.node, limited)?, Instant::now());
    let pings = neighbour.addresses().map(|address| Pings::from_lan(world, address));
    let received = spoofer.flood(1_000_000, |number| foreign[number as usize % foreign.len()])?;
    let (after, took) = (Usage::of(process)?, begun.elapsed());
    eprintln!("the flood took {took:?}: {before:?} → {after:?}");
    same("the frames that arrived on the LAN", &received, &0)?;
    for pings in pings {
        pings?.all_answered(20)?;
    }
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    ensure!(grown < 4096, "the agent grew by {grown} KiB: {before:?} → {after:?}");
    let busy = after.cpu.saturating_sub(before.cpu).as_secs_f64() / took.as_secs_f64();
    ensure!(busy < 0.5, "the agent used {:.0} % of a processor", busy * 100.0);
    let kept_back = agents::metric(world, &flooder.node, limited)? - kept_back;
    ensure!(kept_back > 900_000.0, "only {kept_back} events are counted as kept back");
    same("the agent", &agents::container(world, &flooder.node)?.0, &agent)?;
    same("the neighbour's record", &namespace.holder("web-1")?, &neighbour)?;
    namespace.finish()
}
