//! The agent dies, or is away: running pods notice nothing, starting pods wait for it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::namespace::{Holder, TestNamespace, is_ready, same};
use crate::sandbox::{Sandbox, conf};
use crate::spoofer::Spoofer;
use crate::traffic::Pings;
use crate::{agents, manifest, sandbox, traffic};

#[test]
fn a_killed_agent_costs_no_packet() -> Result<()> {
    let namespace = TestNamespace::exclusive("killed", 10)?;
    let world = namespace.world;
    namespace.apply(manifest::stateful_set("web", 2))?;
    let holders = [namespace.ready("web-0")?, namespace.ready("web-1")?];
    let addresses = holders.iter().flat_map(Holder::addresses);
    let pings = addresses.map(|address| Pings::from_lan(world, address)).collect::<Result<Vec<_>>>()?;
    let spoofer = Spoofer::new(world, &holders[0])?;
    let foreign = Ipv4Addr::new(172, 22, namespace.net4().try_into()?, 9);
    let (sent, received, ()) = spoofer.spoof_during(foreign, || {
        let nodes = world.cluster.nodes()?;
        let before = agents::containers(world)?;
        for (container, _) in &before {
            sandbox::kill_container(container)?;
        }
        for (node, (container, count)) in nodes.iter().zip(&before) {
            let now = agents::back(world, node, container)?;
            ensure!(now.1 > *count, "{node}: restartCount is {} after {count}", now.1);
        }
        Ok(())
    })?;
    ensure!(sent > 100 && received == 0, "of {sent} packets from a foreign address, {received} arrived on the LAN");
    for pings in pings {
        pings.all_answered(50)?;
    }
    for (name, before) in ["web-0", "web-1"].into_iter().zip(&holders) {
        same("the holder", &namespace.holder(name)?, before)?;
    }
    // The next DEL and ADD, on links that an agent before made.
    namespace.kubectl(&["delete", "pod", "web-0", "web-1", "--wait=false"])?;
    for (name, before) in ["web-0", "web-1"].into_iter().zip(&holders) {
        let after = namespace.ready_as(name, |now| now.uid != before.uid)?;
        before.sticks(&after)?;
        traffic::reaches(world, &after)?;
    }
    namespace.finish()
}

#[test]
fn without_an_agent_pods_wait_for_it() -> Result<()> {
    let namespace = TestNamespace::exclusive("away", 10)?;
    let world = namespace.world;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let running = namespace.ready("web-0")?;
    let pings = Pings::from_lan(world, running.addresses()[0])?;
    let by_hand = namespace.pod_without_network("hand")?;

    let away = agents::remove(world)?;
    let sandbox = Sandbox::new(world, &by_hand, "while-away")?;
    let answer = sandbox.call("ADD", &conf("1.0.0"))?;
    let sentence = answer.error(11)?;
    ensure!(sentence.contains("agent does not answer") && sentence.contains("try again"), "unclear: {sentence}");
    let delegate = sandbox.call_plugin(
        "spiderpool",
        "ADD",
        br#"{"cniVersion":"1.0.0","name":"n","type":"bridge","ipam":{"type":"spiderpool"}}"#,
    )?;
    delegate.error(11)?;
    namespace.apply(manifest::pod("waiting"))?;
    namespace.event("waiting", &["holdfast agent does not answer"])?;
    ensure!(!is_ready(&namespace.pod("waiting")?.context("the pod is there")?), "the pod runs without an address");

    away.back()?;
    let holder = namespace.ready("waiting")?;
    traffic::reaches(world, &holder)?;
    sandbox.call("ADD", &conf("1.0.0"))?.result()?;
    sandbox.call("DEL", &conf("1.0.0"))?.result()?;
    pings.all_answered(50)?;
    same("the holder", &namespace.holder("web-0")?, &running)?;
    namespace.finish()
}
