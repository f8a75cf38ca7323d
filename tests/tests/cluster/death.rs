//! Detection on the node itself: a sandbox's death that no runtime reports, and a record that a crash left behind.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::json;
use xtask::progress::Poll;

use crate::namespace::{TestNamespace, text};
use crate::nodes::RuntimeAway;
use crate::{manifest, sandbox, traffic};

/// Returns true if a host on the LAN answers a ping from a process's network.
fn heard(process: Pid, from: &str) -> Result<bool> {
    let net = format!("--net=/proc/{process}/ns/net");
    let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", from, "172.22.0.100"];
    Ok(Command::new("nsenter").arg(net).args(ping).output()?.status.success())
}

#[test]
fn a_dead_sandbox_is_seen_without_its_runtime() -> Result<()> {
    let namespace = TestNamespace::exclusive("death", 10)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let before = namespace.ready("web-0")?;
    let app = namespace.pod("web-0")?.context("the pod runs")?;
    let app = text(&app, "/status/containerStatuses/0/containerID")?.trim_start_matches("containerd://").to_owned();
    let process = sandbox::process_of(&app)?;
    ensure!(heard(process, before.addresses()[0])?, "the pod is not heard");
    let away = RuntimeAway::on(namespace.world, &before.node)?;
    sandbox::kill_container(&before.container)?;
    namespace.wait("the endpoint to lose its holder", 1, || {
        let endpoint = namespace.endpoint("web-0")?.context("the endpoint went")?;
        let status = &endpoint["status"];
        let collected = status["current"]["containerID"].is_null() && status["history"][0]["reason"] == "SandboxDied";
        Ok(if collected { Poll::Ready(()) } else { Poll::Pending(status["current"].to_string()) })
    })?;
    // Its containers live on in the sandbox's network.
    ensure!(!heard(process, before.addresses()[0])?, "what is left of the dead sandbox is still heard");
    away.back()?;
    let after = namespace.ready_as("web-0", |now| now.container != before.container)?;
    before.sticks(&after)?;
    traffic::reaches(namespace.world, &after)?;
    namespace.finish()
}

#[test]
fn a_stale_record_is_rebound_to_the_living_container() -> Result<()> {
    let namespace = TestNamespace::shared("behind", 10)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let before = namespace.ready("web-0")?;
    let older = json!({"status": {"current": {"containerID": "left-behind"}}}).to_string();
    namespace.kubectl(&["patch", "se", "web-0", "--type=merge", "--patch", &older])?;
    let after = namespace.ready_as("web-0", |now| now.container == before.container)?;
    ensure!(after.generation == before.generation + 1, "rebinding is a new generation: {before:?} → {after:?}");
    namespace.event("web-0", &[&before.container, "holds the pod's addresses now"])?;
    traffic::reaches(namespace.world, &after)?;
    namespace.finish()
}
