//! Other main plugins that ask for addresses through `"ipam": {"type": "spiderpool"}`: the reference plugins, as
//! libcni calls them, with the same stickiness.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::progress::{Poll, output};

use crate::namespace::{Holder, TestNamespace, same};
use crate::sandbox::Sandbox;
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
fn add(namespace: &TestNamespace, sandbox: &Sandbox, plugin: &str) -> Result<(Value, Holder)> {
    let answer = sandbox.call_plugin(plugin, "ADD", conf(plugin).to_string().as_bytes())?.result()?;
    let holder = namespace.holder("web-0")?;
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
/// Container IDs name the plugin: a node has each only once, and these lives run side by side on it.
fn life(namespace: &TestNamespace, plugin: &str, reached: impl Fn(&Holder) -> Result<()>) -> Result<()> {
    let del = |sandbox: &Sandbox| sandbox.call_plugin(plugin, "DEL", conf(plugin).to_string().as_bytes())?.result();
    let pod = namespace.pod_without_network("web")?;
    let first = Sandbox::new(namespace.world, &pod, &format!("{plugin}-delegated-1"))?;
    let (answer, one) = add(namespace, &first, plugin)?;
    reached(&one)?;
    ensure!(check(&first, plugin, &answer)?, "CHECK fails after ADD");

    // The sandbox restarts: ADD of the new one first, the old one's DEL late.
    let second = Sandbox::new(namespace.world, &pod, &format!("{plugin}-delegated-2"))?;
    let (answer, two) = add(namespace, &second, plugin)?;
    one.sticks(&two)?;
    ensure!(!check(&first, plugin, &answer)?, "CHECK of the old sandbox should fail");
    del(&first)?;
    same("the holder after a late DEL", &namespace.holder("web-0")?, &two)?;
    del(&second)?;
    del(&second)?;
    let endpoint = namespace.endpoint("web-0")?.context("the endpoint is kept")?;
    same("the state", &endpoint["status"]["current"]["state"], &json!("Reserved"))?;

    // The pod is made anew.
    namespace.kubectl(&["delete", "pod", "web-0", "--wait=false"])?;
    let pod = namespace.running("web-0", &two.uid)?;
    let third = Sandbox::new(namespace.world, &pod, &format!("{plugin}-delegated-3"))?;
    let (_, three) = add(namespace, &third, plugin)?;
    two.sticks(&three)?;
    reached(&three)?;
    del(&third)?;
    Ok(())
}

#[test]
fn macvlan_keeps_the_address() -> Result<()> {
    let namespace = TestNamespace::shared("macvlan", 5)?;
    life(&namespace, "macvlan", |holder| {
        // The LAN's host knows the hardware address of the sandbox before, until an announcement of the new one.
        namespace.wait("a host on the LAN to reach the pod", 15, || {
            Ok(traffic::reaches(namespace.world, holder)
                .map_or_else(|error| Poll::Pending(format!("{error:#}")), Poll::Ready))
        })
    })?;
    namespace.finish()
}

#[test]
fn bridge_keeps_the_address() -> Result<()> {
    let namespace = TestNamespace::shared("bridge", 5)?;
    life(&namespace, "bridge", |_| Ok(()))?;
    for node in namespace.world.lab().nodes() {
        // The plugin leaves its bridge; only the pod's node has it.
        drop(output(&mut node.exec(&["ip", "link", "del", "holdfast-test"])));
    }
    namespace.finish()
}

#[test]
fn a_pod_without_a_stateful_set_releases_its_address() -> Result<()> {
    let namespace = TestNamespace::shared("released", 5)?;
    let mut pod = manifest::pod("single");
    pod["spec"]["hostNetwork"] = json!(true);
    namespace.apply(pod)?;
    let pod = namespace.running("single", "")?;
    let sandbox = Sandbox::new(namespace.world, &pod, "delegated-single")?;
    sandbox.call_plugin("macvlan", "ADD", conf("macvlan").to_string().as_bytes())?.result()?;
    namespace.pool_shows(&namespace.pool4, |shown| (shown.len() == 1).then_some(()))?;
    sandbox.call_plugin("macvlan", "DEL", conf("macvlan").to_string().as_bytes())?.result()?;
    ensure!(namespace.endpoint("single")?.is_none(), "the endpoint is still there");
    namespace.pool_shows(&namespace.pool4, |shown| shown.is_empty().then_some(()))?;
    namespace.finish()
}
