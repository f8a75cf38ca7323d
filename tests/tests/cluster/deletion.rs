//! A StatefulSet that is deleted gives its addresses back, within seconds and whatever the cascade.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xtask::progress::Look;

use crate::manifest;
use crate::stage::{LIMIT, Stage};

/// From the moment when the pods are told to go.
const WITHIN: Duration = Duration::from_secs(10);

/// Waits until kubectl finds no endpoint and the pools show no address.
fn freed(stage: &Stage, since: Instant) -> Result<()> {
    for pool in [&stage.pool4, &stage.pool6] {
        stage.pool_shows(pool, |shown| shown.is_empty().then_some(()))?;
    }
    let took = since.elapsed();
    for name in ["web-0", "web-1"] {
        let answer = stage.world.cluster.kubectl(&["-n", &stage.namespace, "get", "se", name]).output()?;
        let error = String::from_utf8_lossy(&answer.stderr);
        ensure!(!answer.status.success() && error.contains("NotFound"), "the endpoint {name} is still there: {error}");
    }
    ensure!(took < WITHIN, "the addresses were free only after {} s", took.as_secs_f32());
    Ok(())
}

#[test]
fn deleted_with_its_pods() -> Result<()> {
    let stage = Stage::new("delete", 4)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    stage.ready("web-0")?;
    stage.ready("web-1")?;
    let since = Instant::now();
    stage.kubectl(&["delete", "sts", "web", "--wait=false"])?;
    freed(&stage, since)?;
    // The claims rest a while, then go too.
    stage.wait("the claims to go", LIMIT, || {
        let left = stage.claims()?.len();
        Ok(if left == 0 { Look::Done(()) } else { Look::NotYet(format!("{left} are there")) })
    })?;
    stage.finish()
}

#[test]
fn deleted_before_its_pods() -> Result<()> {
    let stage = Stage::new("orphan", 4)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    let holders = [stage.ready("web-0")?, stage.ready("web-1")?];
    stage.kubectl(&["delete", "sts", "web", "--cascade=orphan"])?;
    // The pods run on, and so do their records: an address in use is never freed.
    stage.pool_shows(&stage.pool4, |shown| (shown.len() == 2).then_some(()))?;
    for (name, before) in ["web-0", "web-1"].into_iter().zip(&holders) {
        ensure!(stage.ready(name)? == *before, "the holder of {name} changed");
        crate::traffic::reaches(stage.world, before)?;
    }
    let since = Instant::now();
    stage.kubectl(&["delete", "pod", "web-0", "web-1", "--wait=false"])?;
    freed(&stage, since)?;
    stage.finish()
}

#[test]
fn deleted_and_made_again_under_its_name() -> Result<()> {
    let stage = Stage::new("again", 4)?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let before = stage.ready("web-0")?;
    stage.kubectl(&["delete", "sts", "web", "--wait=false"])?;
    stage.wait("the StatefulSet to go", LIMIT, || {
        let left = stage.kubectl(&["get", "sts", "-o", "name"])?;
        Ok(if left.trim().is_empty() { Look::Done(()) } else { Look::NotYet(left) })
    })?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let after = stage.ready_as("web-0", |now| now.uid != before.uid)?;
    crate::traffic::reaches(stage.world, &after)?;
    // A new key: exactly its own addresses are in use, whichever they are.
    for (pool, address) in [&stage.pool4, &stage.pool6].into_iter().zip(after.addresses()) {
        stage.pool_shows(pool, |shown| (shown.len() == 1 && shown.contains_key(address)).then_some(()))?;
    }
    stage.finish()
}

#[test]
fn deleted_after_its_pods() -> Result<()> {
    let stage = Stage::new("foreground", 4)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    stage.ready("web-0")?;
    stage.ready("web-1")?;
    let since = Instant::now();
    stage.kubectl(&["delete", "sts", "web", "--cascade=foreground", "--wait=false"])?;
    freed(&stage, since)?;
    stage.finish()
}

#[test]
fn deleted_with_its_namespace() -> Result<()> {
    let stage = Stage::new("namespace", 4)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    stage.apply(manifest::deployment("front", 1))?;
    for pod in ["web-0", "web-1", &stage.ready_pod("front", "")?] {
        stage.ready(pod)?;
    }
    stage.kubectl(&["delete", "namespace", &stage.namespace, "--wait=false"])?;
    stage.wait("the pods to end", LIMIT, || {
        let left = stage.all_pods()?.len();
        Ok(if left == 0 { Look::Done(()) } else { Look::NotYet(format!("{left} are there")) })
    })?;
    stage.wait("the addresses to be free", WITHIN.as_secs(), || {
        let endpoints = stage.endpoints()?.len();
        let held = stage.claims()?.iter().filter(|claim| claim["spec"]["state"] == "held").count();
        let left = format!("{endpoints} endpoints and {held} claims are there");
        Ok(if endpoints + held == 0 { Look::Done(()) } else { Look::NotYet(left) })
    })?;
    stage.in_use(0)?;
    stage.finish()
}
