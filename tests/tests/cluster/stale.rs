//! Sandboxes whose address has a newer holder: their packets are dropped and reported.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::delegate::conf as delegate_conf;
use crate::namespace::TestNamespace;
use crate::sandbox::{Sandbox, conf};
use crate::traffic::{self, Pings};
use crate::{agents, manifest, sandbox};

/// Waits until events of the pod and its StatefulSet name the address, its user and its holder.
fn fenced(namespace: &TestNamespace, address: &str, old: &Sandbox, new: &Sandbox) -> Result<()> {
    let (old_mac, new_mac) = (old.mac()?, new.mac()?);
    let words = [address, &old.container, &new.container, &old_mac, &new_mac, "dropped"];
    namespace.reported("Pod", "web-0", "StaleContainerFenced", &words)?;
    namespace.reported("StatefulSet", "web", "StaleContainerFenced", &words)
}

#[test]
fn a_stale_sandbox_is_fenced_and_reported() -> Result<()> {
    let namespace = TestNamespace::shared("stale", 5)?;
    let pod = namespace.pod_without_network("web")?;
    let conf = conf("1.0.0");
    let old = Sandbox::new(namespace.world, &pod, "stale-old")?;
    old.call("ADD", &conf)?.result()?;
    let holder = namespace.holder("web-0")?;
    for address in holder.addresses() {
        ensure!(old.gets_through(address)?, "the only sandbox is not heard from {address}");
    }
    let new = Sandbox::new(namespace.world, &pod, "stale-new")?;
    new.call("ADD", &conf)?.result()?;
    let pings = holder.addresses().map(|address| Pings::from_lan(namespace.world, address));
    for address in holder.addresses() {
        ensure!(!old.gets_through(address)?, "the old sandbox is still heard from {address}");
        ensure!(new.gets_through(address)?, "the new sandbox is not heard from {address}");
        fenced(&namespace, address, &old, &new)?;
    }
    for pings in pings {
        pings?.all_answered(20)?;
    }
    old.call("DEL", &conf)?.result()?;
    traffic::reaches(namespace.world, &namespace.holder("web-0")?)?;
    new.call("DEL", &conf)?.result()?;
    // A runtime that has lost the configuration sends none.
    new.call_plugin("holdfast", "DEL", b"")?.result()?;
    namespace.finish()
}

/// The same where the interfaces are on the LAN themselves, and the guard inside the pods.
#[test]
fn a_stale_macvlan_sandbox_is_fenced_and_reported() -> Result<()> {
    let namespace = TestNamespace::exclusive("stale-macvlan", 5)?;
    let pod = namespace.pod_without_network("web")?;
    let call = |sandbox: &Sandbox, verb| {
        sandbox.call_plugin("macvlan", verb, delegate_conf("macvlan").to_string().as_bytes())?.result()
    };
    let old = Sandbox::new(namespace.world, &pod, "macvlan-old")?;
    call(&old, "ADD")?;
    let holder = namespace.holder("web-0")?;
    for address in holder.addresses() {
        ensure!(old.gets_through(address)?, "the only sandbox is not heard from {address}");
    }
    let new = Sandbox::new(namespace.world, &pod, "macvlan-new")?;
    call(&new, "ADD")?;
    for address in holder.addresses() {
        ensure!(!old.gets_through(address)?, "the old sandbox is still heard from {address}");
        ensure!(new.gets_through(address)?, "the new sandbox is not heard from {address}");
        fenced(&namespace, address, &old, &new)?;
    }
    // Its DEL takes nothing off the other's interface, nor does an agent that starts anew forget whose that is.
    call(&old, "DEL")?;
    let (container, _) = agents::container(namespace.world, &holder.node)?;
    sandbox::kill_container(&container)?;
    agents::back(namespace.world, &holder.node, &container)?;
    let stolen = format!("172.22.{}.5", namespace.net4());
    new.run(&["ip", "addr", "add", &format!("{stolen}/16"), "dev", "eth0"])?;
    ensure!(!new.gets_through(&stolen)?, "an address that is not the pod's own is heard");
    namespace.reported(
        "Pod",
        "web-0",
        "SourceViolation",
        &[&stolen, &new.container, "no container on this node", "dropped"],
    )?;
    for address in holder.addresses() {
        ensure!(new.gets_through(address)?, "the sandbox is not heard any more from {address}");
    }
    call(&new, "DEL")?;
    namespace.finish()
}

#[test]
fn observe_mode_passes_and_reports_foreign_packets() -> Result<()> {
    let namespace = TestNamespace::shared("observe", 5)?;
    let set = manifest::annotated(manifest::without_network("web", 1), "holdfast.io/guard", "observe");
    namespace.apply(set)?;
    let pod = namespace.running("web-0", "")?;
    let sandbox = Sandbox::new(namespace.world, &pod, "observed")?;
    sandbox.call("ADD", &conf("1.0.0"))?.result()?;
    let stolen = format!("172.22.{}.5", namespace.net4());
    sandbox.run(&["ip", "addr", "add", &format!("{stolen}/32"), "dev", "eth0"])?;
    let _ = sandbox.gets_through(&stolen)?;
    namespace.reported("Pod", "web-0", "SourceViolation", &[&stolen, "seen, not dropped"])?;

    // Another word on the pod counts from the next comparison on.
    let other = format!("172.22.{}.4", namespace.net4());
    sandbox.run(&["ip", "addr", "add", &format!("{other}/32"), "dev", "eth0"])?;
    namespace.kubectl(&["annotate", "pod", "web-0", "--overwrite", "holdfast.io/guard=enforce"])?;
    let holder = namespace.holder("web-0")?;
    let since = std::time::Instant::now();
    namespace.wait("the guard to enforce", 90, || {
        let _ = sandbox.gets_through(&other)?;
        let line = agents::last_log(namespace.world, &holder.node, since, &["Foreign", &format!("\"{other}\"")])?;
        Ok(match line {
            Some(line) if line["dropped"] == json!(true) => xtask::progress::Poll::Ready(()),
            line => xtask::progress::Poll::Pending(format!("{line:?}")),
        })
    })?;
    sandbox.call("DEL", &conf("1.0.0"))?.result()?;
    namespace.finish()
}
