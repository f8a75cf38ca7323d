//! The addresses of a StatefulSet's pod through everything that replaces its container.

use anyhow::{Context, Result, ensure};

use crate::namespace::{Holder, TestNamespace, same};
use crate::nodes::Cordoned;
use crate::{manifest, sandbox, traffic};

/// Waits until both pools show the holder's container at its addresses.
fn in_pools(namespace: &TestNamespace, holder: &Holder) -> Result<()> {
    for (pool, address) in [&namespace.pool4, &namespace.pool6].into_iter().zip(holder.addresses()) {
        namespace.pool_shows(pool, |shown| {
            let record = shown.get(address)?;
            (record["containerID"] == *holder.container && record["podUid"] == *holder.uid).then_some(())
        })?;
    }
    Ok(())
}

#[test]
fn a_killed_sandbox_comes_back_with_its_addresses() -> Result<()> {
    let namespace = TestNamespace::shared("pause", 10)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    let before = namespace.ready("web-0")?;
    traffic::reaches(namespace.world, &before)?;
    sandbox::kill_container(&before.container)?;
    let after = namespace.ready_as("web-0", |now| now.container != before.container)?;
    before.sticks(&after)?;
    same("pod UID", &after.uid, &before.uid)?;
    traffic::reaches(namespace.world, &after)?;
    in_pools(&namespace, &after)?;
    let endpoint = namespace.endpoint("web-0")?.context("the endpoint is there")?;
    let former = &endpoint["status"]["history"][0];
    ensure!(former["containerID"] == *before.container, "the history does not begin with {before:?}: {former}");
    namespace.finish()
}

#[test]
fn a_deleted_pod_comes_back_with_its_addresses() -> Result<()> {
    let namespace = TestNamespace::shared("recreate", 10)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    let mut before = namespace.ready("web-0")?;
    let other = namespace.ready("web-1")?;
    for force in [false, true] {
        let how: &[&str] = if force { &["--force", "--grace-period=0"] } else { &["--wait=false"] };
        namespace.kubectl(&[&["delete", "pod", "web-0"], how].concat())?;
        let after = namespace.ready_as("web-0", |now| now.uid != before.uid)?;
        before.sticks(&after)?;
        traffic::reaches(namespace.world, &after)?;
        in_pools(&namespace, &after)?;
        before = after;
    }
    same("the other pod", &namespace.holder("web-1")?, &other)?;
    namespace.finish()
}

#[test]
fn a_pod_moves_to_another_node_with_its_addresses() -> Result<()> {
    let namespace = TestNamespace::exclusive("move", 10)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let mut before = namespace.ready("web-0")?;
    // There and back: the second time both nodes have known the pod.
    for _ in 0..2 {
        traffic::reaches(namespace.world, &before)?;
        let after = moved(&namespace, &before)?;
        traffic::reaches(namespace.world, &after)?;
        before.sticks(&after)?;
        ensure!(after.node != before.node, "the pod is on {} again", after.node);
        in_pools(&namespace, &after)?;
        before = after;
    }
    namespace.finish()
}

/// Deletes the pod while its node is cordoned; returns its next holder.
fn moved(namespace: &TestNamespace, before: &Holder) -> Result<Holder> {
    let _cordoned = Cordoned::new(namespace.world, &before.node)?;
    namespace.kubectl(&["delete", "pod", "web-0", "--wait=false"])?;
    namespace.ready_as("web-0", |now| now.uid != before.uid)
}
