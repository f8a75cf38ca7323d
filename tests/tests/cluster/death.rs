//! What the node notices by itself: a sandbox's death that no runtime reports, and a record that a crash left behind.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::json;
use xtask::progress::Look;

use crate::nodes::RuntimeAway;
use crate::stage::{Stage, text};
use crate::{manifest, sandbox, traffic};

/// Whether a process's network gets an answer from the LAN.
fn heard(process: Pid, from: &str) -> Result<bool> {
    let net = format!("--net=/proc/{process}/ns/net");
    let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", from, "172.22.0.100"];
    Ok(Command::new("nsenter").arg(net).args(ping).output()?.status.success())
}

#[test]
fn a_dead_sandbox_is_seen_without_its_runtime() -> Result<()> {
    let stage = Stage::alone("death", 10)?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let before = stage.ready("web-0")?;
    let app = stage.pod("web-0")?.context("the pod runs")?;
    let app = text(&app, "/status/containerStatuses/0/containerID")?.trim_start_matches("containerd://").to_owned();
    let process = sandbox::process_of(&app)?;
    ensure!(heard(process, before.addresses()[0])?, "the pod is not heard");
    let away = RuntimeAway::on(stage.world, &before.node)?;
    sandbox::kill_container(&before.container)?;
    stage.wait("the endpoint to lose its holder", 1, || {
        let endpoint = stage.endpoint("web-0")?.context("the endpoint went")?;
        let status = &endpoint["status"];
        let collected = status["current"]["containerID"].is_null() && status["history"][0]["reason"] == "SandboxDied";
        Ok(if collected { Look::Done(()) } else { Look::NotYet(status["current"].to_string()) })
    })?;
    // Its containers live on in the sandbox's network.
    ensure!(!heard(process, before.addresses()[0])?, "what is left of the dead sandbox is still heard");
    drop(away);
    let after = stage.ready_as("web-0", |now| now.container != before.container)?;
    before.sticks(&after)?;
    traffic::reaches(stage.world, &after)?;
    stage.finish()
}

#[test]
fn a_record_left_behind_names_the_living_container_again() -> Result<()> {
    let stage = Stage::new("behind", 10)?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let before = stage.ready("web-0")?;
    let older = json!({"status": {"current": {"containerID": "left-behind"}}}).to_string();
    stage.kubectl(&["patch", "se", "web-0", "--type=merge", "--patch", &older])?;
    let after = stage.ready_as("web-0", |now| now.container == before.container)?;
    ensure!(after.generation == before.generation + 1, "rebinding is a new generation: {before:?} → {after:?}");
    stage.event("web-0", &[&before.container, "holds the pod's addresses now"])?;
    traffic::reaches(stage.world, &after)?;
    stage.finish()
}
