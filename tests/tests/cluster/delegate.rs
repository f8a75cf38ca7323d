//! Other main plugins that ask for addresses through `"ipam": {"type": "spiderpool"}`: the reference plugins, as
//! libcni calls them, with the same stickiness.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::progress::{Look, output};

use crate::sandbox::Sandbox;
use crate::stage::{Holder, Stage, same};
use crate::{manifest, traffic};

/// The configuration of a plugin that has its addresses from holdfast.
pub(crate) fn conf(plugin: &str) -> Value {
    let mut conf = json!({"cniVersion": "0.4.0", "name": "lan", "type": plugin, "ipam": {"type": "spiderpool"}});
    if plugin == "macvlan" {
        conf["master"] = json!("eth0");
        conf["mode"] = json!("bridge");
    } else {
        conf["bridge"] = json!("holdfast-test");
    }
    conf
}

/// ADD; the answer, the endpoint and the interface have to agree.
fn add(stage: &Stage, sandbox: &Sandbox, plugin: &str) -> Result<(Value, Holder)> {
    let answer = sandbox.call_plugin(plugin, "ADD", conf(plugin).to_string().as_bytes())?.result()?;
    let holder = stage.holder("web-0")?;
    same("the container", &holder.container, &sandbox.container)?;
    let ips: Vec<&str> =
        answer["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str()).collect();
    same("the answer's addresses", &ips, &vec![&*holder.ipv4, &*holder.ipv6])?;
    let interface = sandbox.run(&["ip", "-o", "addr", "show", "dev", "eth0"])?;
    ensure!(interface.contains(&holder.ipv4) && interface.contains(&holder.ipv6), "{holder:?} is not on\n{interface}");
    Ok((answer, holder))
}

fn check(sandbox: &Sandbox, plugin: &str, answer: &Value) -> Result<bool> {
    let mut conf = conf(plugin);
    conf["prevResult"] = answer.clone();
    Ok(sandbox.call_plugin(plugin, "CHECK", conf.to_string().as_bytes())?.ok)
}

/// The life of a StatefulSet's pod with a reference plugin.
fn life(stage: &Stage, plugin: &str, reached: impl Fn(&Holder) -> Result<()>) -> Result<()> {
    let del = |sandbox: &Sandbox| sandbox.call_plugin(plugin, "DEL", conf(plugin).to_string().as_bytes())?.result();
    let pod = stage.pod_without_network("web")?;
    let first = Sandbox::new(stage.world, &pod, "delegated-1")?;
    let (answer, one) = add(stage, &first, plugin)?;
    reached(&one)?;
    ensure!(check(&first, plugin, &answer)?, "CHECK fails after ADD");

    // The sandbox restarts: ADD of the new one first, the old one's DEL late.
    let second = Sandbox::new(stage.world, &pod, "delegated-2")?;
    let (answer, two) = add(stage, &second, plugin)?;
    one.sticks(&two)?;
    ensure!(!check(&first, plugin, &answer)?, "CHECK of the old sandbox should fail");
    del(&first)?;
    same("the holder after a late DEL", &stage.holder("web-0")?, &two)?;
    del(&second)?;
    del(&second)?;
    let endpoint = stage.endpoint("web-0")?.context("the endpoint is kept")?;
    same("the state", &endpoint["status"]["current"]["state"], &json!("Reserved"))?;

    // The pod is made anew.
    stage.kubectl(&["delete", "pod", "web-0", "--wait=false"])?;
    let pod = stage.running("web-0", &two.uid)?;
    let third = Sandbox::new(stage.world, &pod, "delegated-3")?;
    let (_, three) = add(stage, &third, plugin)?;
    two.sticks(&three)?;
    reached(&three)?;
    del(&third)?;
    Ok(())
}

#[test]
fn macvlan_keeps_the_address() -> Result<()> {
    let stage = Stage::new("macvlan", 5)?;
    life(&stage, "macvlan", |holder| {
        // The LAN's host knows the address by the hardware address of the sandbox before: it is told of the new one.
        stage.wait("a host on the LAN to reach the pod", 15, || {
            Ok(traffic::reaches(stage.world, holder)
                .map_or_else(|error| Look::NotYet(format!("{error:#}")), Look::Done))
        })
    })?;
    stage.finish()
}

#[test]
fn bridge_keeps_the_address() -> Result<()> {
    let stage = Stage::new("bridge", 5)?;
    life(&stage, "bridge", |_| Ok(()))?;
    for node in stage.world.lab().nodes() {
        // The plugin leaves its bridge; only the pod's node has it.
        drop(output(&mut node.exec(&["ip", "link", "del", "holdfast-test"])));
    }
    stage.finish()
}

#[test]
fn a_pod_that_is_not_of_a_stateful_set_gives_its_address_back() -> Result<()> {
    let stage = Stage::new("released", 5)?;
    let mut pod = manifest::pod("single");
    pod["spec"]["hostNetwork"] = json!(true);
    stage.apply(pod)?;
    let pod = stage.running("single", "")?;
    let sandbox = Sandbox::new(stage.world, &pod, "delegated-single")?;
    sandbox.call_plugin("macvlan", "ADD", conf("macvlan").to_string().as_bytes())?.result()?;
    stage.pool_shows(&stage.pool4, |shown| (shown.len() == 1).then_some(()))?;
    sandbox.call_plugin("macvlan", "DEL", conf("macvlan").to_string().as_bytes())?.result()?;
    ensure!(stage.endpoint("single")?.is_none(), "the endpoint is still there");
    stage.pool_shows(&stage.pool4, |shown| shown.is_empty().then_some(()))?;
    stage.finish()
}
