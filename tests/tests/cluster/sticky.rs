//! The addresses of a StatefulSet's pod through everything that replaces its container.

use anyhow::{Context, Result, ensure};

use crate::stage::{Holder, Stage, same};
use crate::{manifest, sandbox, traffic};

/// Waits until both pools show the holder's container at its addresses.
fn in_pools(stage: &Stage, holder: &Holder) -> Result<()> {
    for (pool, address) in [&stage.pool4, &stage.pool6].into_iter().zip(holder.addresses()) {
        stage.pool_shows(pool, |shown| {
            let record = shown.get(address)?;
            (record["containerID"] == *holder.container && record["podUid"] == *holder.uid).then_some(())
        })?;
    }
    Ok(())
}

#[test]
fn a_killed_sandbox_comes_back_with_its_addresses() -> Result<()> {
    let stage = Stage::new("pause", 10)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    let before = stage.ready("web-0")?;
    traffic::reaches(stage.world, &before)?;
    sandbox::kill_container(&before.container)?;
    let after = stage.ready_as("web-0", |now| now.container != before.container)?;
    before.sticks(&after)?;
    same("pod UID", &after.uid, &before.uid)?;
    traffic::reaches(stage.world, &after)?;
    in_pools(&stage, &after)?;
    let endpoint = stage.endpoint("web-0")?.context("the endpoint is there")?;
    let former = &endpoint["status"]["history"][0];
    ensure!(former["containerID"] == *before.container, "the history does not begin with {before:?}: {former}");
    stage.finish()
}

#[test]
fn a_deleted_pod_comes_back_with_its_addresses() -> Result<()> {
    let stage = Stage::new("recreate", 10)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    let mut before = stage.ready("web-0")?;
    let other = stage.ready("web-1")?;
    for force in [false, true] {
        let how: &[&str] = if force { &["--force", "--grace-period=0"] } else { &["--wait=false"] };
        stage.kubectl(&[&["delete", "pod", "web-0"], how].concat())?;
        let after = stage.ready_as("web-0", |now| now.uid != before.uid)?;
        before.sticks(&after)?;
        traffic::reaches(stage.world, &after)?;
        in_pools(&stage, &after)?;
        before = after;
    }
    same("the other pod", &stage.holder("web-1")?, &other)?;
    stage.finish()
}

#[test]
fn a_pod_moves_to_another_node_with_its_addresses() -> Result<()> {
    let stage = Stage::alone("move", 10)?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let mut before = stage.ready("web-0")?;
    // There and back: the second time both nodes have known the pod.
    for _ in 0..2 {
        traffic::reaches(stage.world, &before)?;
        let after = moved(&stage, &before)?;
        traffic::reaches(stage.world, &after)?;
        before.sticks(&after)?;
        ensure!(after.node != before.node, "the pod is on {} again", after.node);
        in_pools(&stage, &after)?;
        before = after;
    }
    stage.finish()
}

fn moved(stage: &Stage, before: &Holder) -> Result<Holder> {
    stage.world.cluster.run(&["cordon", &before.node])?;
    let moved = stage
        .kubectl(&["delete", "pod", "web-0", "--wait=false"])
        .and_then(|_| stage.ready_as("web-0", |now| now.uid != before.uid));
    // The node is for the other tests too, whatever happened.
    stage.world.cluster.run(&["uncordon", &before.node])?;
    moved
}
