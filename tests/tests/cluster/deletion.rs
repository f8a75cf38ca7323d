//! A StatefulSet that is deleted gives its addresses back, within seconds and whatever the cascade.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xtask::progress::Poll;

use crate::manifest;
use crate::namespace::{LIMIT, TestNamespace};

/// From the moment when the pods are deleted.
const WITHIN: Duration = Duration::from_secs(10);

/// Waits until kubectl finds no endpoint and the pools show no address.
fn freed(namespace: &TestNamespace, since: Instant) -> Result<()> {
    for pool in [&namespace.pool4, &namespace.pool6] {
        namespace.pool_shows(pool, |shown| shown.is_empty().then_some(()))?;
    }
    let took = since.elapsed();
    for name in ["web-0", "web-1"] {
        let answer = namespace.world.cluster.kubectl(&["-n", &namespace.name, "get", "se", name]).output()?;
        let error = String::from_utf8_lossy(&answer.stderr);
        ensure!(!answer.status.success() && error.contains("NotFound"), "the endpoint {name} is still there: {error}");
    }
    ensure!(took < WITHIN, "the addresses were free only after {} s", took.as_secs_f32());
    Ok(())
}

#[test]
fn deleted_with_its_pods() -> Result<()> {
    let namespace = TestNamespace::shared("delete", 4)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    namespace.ready("web-0")?;
    namespace.ready("web-1")?;
    let since = Instant::now();
    namespace.kubectl(&["delete", "sts", "web", "--wait=false"])?;
    freed(&namespace, since)?;
    // The claims rest a while, then go too.
    namespace.wait("the claims to go", LIMIT, || {
        let left = namespace.claims()?.len();
        Ok(if left == 0 { Poll::Ready(()) } else { Poll::Pending(format!("{left} are there")) })
    })?;
    namespace.finish()
}

#[test]
fn deleted_before_its_pods() -> Result<()> {
    let namespace = TestNamespace::shared("orphan", 4)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    let holders = [namespace.ready("web-0")?, namespace.ready("web-1")?];
    namespace.kubectl(&["delete", "sts", "web", "--cascade=orphan"])?;
    // The pods run on, and so do their records: an address in use is never freed.
    namespace.pool_shows(&namespace.pool4, |shown| (shown.len() == 2).then_some(()))?;
    for (name, before) in ["web-0", "web-1"].into_iter().zip(&holders) {
        ensure!(namespace.ready(name)? == *before, "the holder of {name} changed");
        crate::traffic::reaches(namespace.world, before)?;
    }
    let since = Instant::now();
    namespace.kubectl(&["delete", "pod", "web-0", "web-1", "--wait=false"])?;
    freed(&namespace, since)?;
    namespace.finish()
}

#[test]
fn deleted_and_made_again_under_its_name() -> Result<()> {
    let namespace = TestNamespace::shared("again", 4)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let before = namespace.ready("web-0")?;
    namespace.kubectl(&["delete", "sts", "web", "--wait=false"])?;
    namespace.wait("the StatefulSet to go", LIMIT, || {
        let left = namespace.kubectl(&["get", "sts", "-o", "name"])?;
        Ok(if left.trim().is_empty() { Poll::Ready(()) } else { Poll::Pending(left) })
    })?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let after = namespace.ready_as("web-0", |now| now.uid != before.uid)?;
    crate::traffic::reaches(namespace.world, &after)?;
    // A new key: exactly its own addresses are in use, whichever they are.
    for (pool, address) in [&namespace.pool4, &namespace.pool6].into_iter().zip(after.addresses()) {
        namespace.pool_shows(pool, |shown| (shown.len() == 1 && shown.contains_key(address)).then_some(()))?;
    }
    namespace.finish()
}

#[test]
fn deleted_after_its_pods() -> Result<()> {
    let namespace = TestNamespace::shared("foreground", 4)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    namespace.ready("web-0")?;
    namespace.ready("web-1")?;
    let since = Instant::now();
    namespace.kubectl(&["delete", "sts", "web", "--cascade=foreground", "--wait=false"])?;
    freed(&namespace, since)?;
    namespace.finish()
}

#[test]
fn deleted_with_its_namespace() -> Result<()> {
    let namespace = TestNamespace::shared("namespace", 4)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    namespace.apply(manifest::deployment("front", 1))?;
    for pod in ["web-0", "web-1", &namespace.ready_pod("front", "")?] {
        namespace.ready(pod)?;
    }
    namespace.kubectl(&["delete", "namespace", &namespace.name, "--wait=false"])?;
    namespace.wait("the pods to end", LIMIT, || {
        let left = namespace.all_pods()?.len();
        Ok(if left == 0 { Poll::Ready(()) } else { Poll::Pending(format!("{left} are there")) })
    })?;
    namespace.wait("the addresses to be free", WITHIN.as_secs(), || {
        let endpoints = namespace.endpoints()?.len();
        let held = namespace.claims()?.iter().filter(|claim| claim["spec"]["state"] == "held").count();
        let left = format!("{endpoints} endpoints and {held} claims are there");
        Ok(if endpoints + held == 0 { Poll::Ready(()) } else { Poll::Pending(left) })
    })?;
    namespace.in_use(0)?;
    namespace.finish()
}
