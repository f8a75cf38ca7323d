//! A pod that takes its neighbour's address: not heard, reported, and the neighbour unharmed.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use xtask::progress::output;

use crate::stage::{Holder, Stage, same};
use crate::traffic::Pings;
use crate::{agents, manifest, sandbox, traffic};

/// Pings the LAN's host from inside a pod; whether an answer came.
fn ping(stage: &Stage, pod: &str, from: &str, to: &str) -> Result<bool> {
    let mut command = stage.world.cluster.kubectl(&["-n", &stage.namespace, "exec", pod, "--"]);
    command.args(["ping", "-c", "2", "-W", "1", "-I", from, to]);
    Ok(command.output()?.status.success())
}

/// Adds an address to the pod's interface.
fn take(stage: &Stage, thief: &Holder, address: &str) -> Result<()> {
    if address.contains('.') {
        let add = ["exec", "web-0", "--", "ip", "addr", "add", &format!("{address}/32"), "dev", "eth0"];
        return stage.kubectl(&add).map(drop);
    }
    // Busybox cannot leave out the search for duplicates, which would keep the address from being used.
    let net = format!("--net=/proc/{}/ns/net", sandbox::process_of(&thief.container)?);
    let add = [&net, "ip", "addr", "add", &format!("{address}/128"), "dev", "eth0", "nodad"];
    output(Command::new("nsenter").args(add)).map(drop)
}

fn steal(stage: &Stage, thief: &Holder, victim: &Holder) -> Result<()> {
    for (index, address) in victim.addresses().into_iter().enumerate() {
        let (own, lan) = (thief.addresses()[index], traffic::LAN[index]);
        ensure!(ping(stage, "web-0", own, lan)?, "the pod does not get through from its own address {own}");
        take(stage, thief, address)?;
        let since = Instant::now();
        ensure!(!ping(stage, "web-0", address, lan)?, "the pod got through from its neighbour's address {address}");
        let line = agents::says(stage.world, &thief.node, since, &["Foreign", &format!("\"{address}\"")])?;
        same("dropped", &line["dropped"], &json!(true))?;
        ensure!(ping(stage, "web-0", own, lan)?, "its own address {own} should go on working");
    }
    Ok(())
}

#[test]
fn a_pod_cannot_use_its_neighbours_address() -> Result<()> {
    let stage = Stage::new("guard", 5)?;
    let mut set = manifest::stateful_set("web", 2);
    let container = &mut set["spec"]["template"]["spec"]["containers"][0];
    container["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    stage.apply(set)?;
    let (thief, victim) = (stage.ready("web-0")?, stage.ready("web-1")?);
    traffic::reaches(stage.world, &victim)?;
    let pings = victim.addresses().map(|address| Pings::from_lan(stage.world, address));
    steal(&stage, &thief, &victim)?;
    for pings in pings {
        pings?.all_answered(100)?;
    }
    for (from, to) in victim.addresses().into_iter().zip(traffic::LAN) {
        ensure!(ping(&stage, "web-1", from, to)?, "the neighbour itself does not get through any more");
    }
    same("the neighbour's record", &stage.holder("web-1")?, &victim)?;
    stage.finish()
}
