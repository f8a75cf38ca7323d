//! What the node notices by itself: a sandbox's death that no runtime reports, and a record that a crash left behind.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xtask::progress::Look;

use crate::nodes::RuntimeAway;
use crate::stage::Stage;
use crate::{manifest, sandbox, traffic};

#[test]
fn a_dead_sandbox_is_seen_without_its_runtime() -> Result<()> {
    let stage = Stage::alone("death", 10)?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let before = stage.ready("web-0")?;
    let away = RuntimeAway::on(stage.world, &before.node)?;
    sandbox::kill_container(&before.container)?;
    stage.wait("the endpoint to lose its holder", 5, || {
        let endpoint = stage.endpoint("web-0")?.context("the endpoint went")?;
        let status = &endpoint["status"];
        let collected = status["current"]["containerID"].is_null() && status["history"][0]["reason"] == "SandboxDied";
        Ok(if collected { Look::Done(()) } else { Look::NotYet(status["current"].to_string()) })
    })?;
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
