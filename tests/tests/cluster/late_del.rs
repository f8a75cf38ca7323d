//! DELs that come late, twice, or for nothing: they change nothing.

use anyhow::{Context, Result, ensure};

use crate::namespace::{TestNamespace, same};
use crate::sandbox::{Sandbox, conf};
use crate::traffic::{self, Pings};
use crate::{manifest, sandbox};

#[test]
fn late_del_of_an_old_sandbox_changes_nothing() -> Result<()> {
    let namespace = TestNamespace::shared("late", 10)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let first = namespace.ready("web-0")?;
    sandbox::kill_container(&first.container)?;
    let second = namespace.ready_as("web-0", |now| now.container != first.container)?;
    let pod = namespace.pod("web-0")?.context("the pod runs")?;

    let pings = Pings::from_lan(namespace.world, second.addresses()[0])?;
    let conf = conf("1.0.0");
    let late = Sandbox::named(namespace.world, &pod, &first.container)?;
    for plugin in ["holdfast", "spiderpool"] {
        for _ in 0..2 {
            late.call_plugin(plugin, "DEL", conf_of(plugin).to_string().as_bytes())?.result()?;
        }
    }
    let unknown = Sandbox::named(namespace.world, &pod, &"0".repeat(64))?;
    unknown.call("DEL", &conf)?.result()?;
    pings.all_answered(5)?;

    traffic::reaches(namespace.world, &second)?;
    same("the holder", &namespace.holder("web-0")?, &second)?;
    namespace.pool_shows(&namespace.pool4, |shown| {
        (shown.get(second.addresses()[0])?["containerID"] == *second.container).then_some(())
    })?;
    namespace.finish()
}

fn conf_of(plugin: &str) -> serde_json::Value {
    let mut conf = conf("1.0.0");
    if plugin == "spiderpool" {
        conf["type"] = "bridge".into();
        conf["ipam"] = serde_json::json!({"type": "spiderpool"});
    }
    conf
}

/// The order that no real runtime can be made to follow on demand: ADD, ADD, and only then the first one's DEL.
#[test]
fn del_of_the_first_sandbox_after_add_of_the_second_changes_nothing() -> Result<()> {
    let namespace = TestNamespace::shared("order", 10)?;
    let pod = namespace.pod_without_network("web")?;
    let conf = conf("1.0.0");
    let first = Sandbox::new(namespace.world, &pod, "first-sandbox")?;
    first.call("ADD", &conf)?.result()?;
    let before = namespace.holder("web-0")?;
    traffic::reaches(namespace.world, &before)?;

    let second = Sandbox::new(namespace.world, &pod, "second-sandbox")?;
    second.call("ADD", &conf)?.result()?;
    let after = namespace.holder("web-0")?;
    before.sticks(&after)?;
    traffic::reaches(namespace.world, &after)?;
    let pings = Pings::from_lan(namespace.world, after.addresses()[0])?;
    let pings6 = Pings::from_lan(namespace.world, after.addresses()[1])?;
    for _ in 0..2 {
        first.call("DEL", &conf)?.result()?;
    }
    pings.all_answered(2)?;
    pings6.all_answered(2)?;
    same("the holder", &namespace.holder("web-0")?, &after)?;
    ensure!(second.run(&["ip", "-o", "addr", "show", "eth0"])?.contains(after.addresses()[0]));
    ensure!(first.run(&["ip", "-o", "link", "show", "eth0"]).is_err(), "the first sandbox still has its interface");

    // Its own DEL takes it down, also when its namespace has gone before, and the addresses wait for the pod.
    let container = second.container.clone();
    drop(second);
    let gone = Sandbox::named(namespace.world, &pod, &container)?;
    for _ in 0..2 {
        gone.call("DEL", &conf)?.result()?;
    }
    let endpoint = namespace.endpoint("web-0")?.context("the endpoint is kept")?;
    let current = &endpoint["status"]["current"];
    ensure!(current["state"] == "Reserved" && current["containerID"].is_null(), "it is still held: {current}");
    same("the address", &current["ips"][0]["ipv4"], &serde_json::json!(after.ipv4))?;
    namespace.finish()
}
