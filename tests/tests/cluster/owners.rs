//! Pods of other owners: an address for each, released with it. And StatefulSets that shrink.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xtask::progress::Look;

use crate::manifest;
use crate::stage::{LIMIT, Stage, same, text};
use crate::traffic;

#[test]
fn a_deployments_pod_gives_its_address_back() -> Result<()> {
    let stage = Stage::new("deployment", 5)?;
    stage.apply(manifest::deployment("front", 1))?;
    let first = stage.ready_pod("front", "")?;
    let holder = stage.ready(&first)?;
    traffic::reaches(stage.world, &holder)?;
    let endpoint = stage.endpoint(&first)?.context("the endpoint is there")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerType")?, &"Deployment")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerName")?, &"front")?;
    stage.kubectl(&["delete", "pod", &first, "--wait=false"])?;
    let second = stage.ready_pod("front", &first)?;
    let after = stage.ready(&second)?;
    ensure!(after.ipv4 != holder.ipv4, "the next pod got an address that has not rested: {after:?}");
    stage.in_use(1)?;
    ensure!(stage.endpoint(&first)?.is_none(), "the endpoint of {first} is still there");
    stage.kubectl(&["scale", "deployment", "front", "--replicas=0"])?;
    stage.in_use(0)?;
    stage.finish()
}

#[test]
fn a_finished_jobs_address_is_released() -> Result<()> {
    let stage = Stage::new("job", 5)?;
    let mut template = manifest::template("work");
    template["spec"]["restartPolicy"] = json!("Never");
    template["spec"]["containers"][0]["command"] = json!(["sh", "-c", "until [ -e /tmp/done ]; do sleep 0.2; done"]);
    stage.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": {"template": template},
    }))?;
    let pod = stage.ready_pod("work", "")?;
    let holder = stage.ready(&pod)?;
    let endpoint = stage.endpoint(&pod)?.context("the endpoint is there")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerType")?, &"Job")?;
    traffic::reaches(stage.world, &holder)?;
    stage.in_use(1)?;
    stage.kubectl(&["exec", &pod, "--", "touch", "/tmp/done"])?;
    stage.kubectl(&["wait", "--for=condition=complete", "job/work", "--timeout=60s"])?;
    stage.in_use(0)?;
    ensure!(stage.pod(&pod)?.is_some_and(|pod| pod["status"]["phase"] == "Succeeded"), "the finished pod should stay");
    ensure!(stage.endpoint(&pod)?.is_none(), "the endpoint is still there");
    stage.finish()
}

#[test]
fn a_bare_pods_address_goes_with_it() -> Result<()> {
    let stage = Stage::new("bare", 5)?;
    stage.apply(manifest::pod("alone"))?;
    let first = stage.ready("alone")?;
    let endpoint = stage.endpoint("alone")?.context("the endpoint is there")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerType")?, &"Pod")?;
    traffic::reaches(stage.world, &first)?;
    stage.kubectl(&["delete", "pod", "alone", "--force", "--grace-period=0"])?;
    stage.in_use(0)?;
    // Of the same name, and somebody else.
    stage.apply(manifest::pod("alone"))?;
    let second = stage.ready_as("alone", |now| now.uid != first.uid)?;
    traffic::reaches(stage.world, &second)?;
    stage.in_use(1)?;
    stage.finish()
}

#[test]
fn a_smaller_stateful_set_keeps_only_its_ordinals() -> Result<()> {
    let stage = Stage::new("scale", 5)?;
    stage.apply(manifest::stateful_set("web", 3))?;
    let holders = ["web-0", "web-1", "web-2"].map(|name| stage.ready(name)).into_iter().collect::<Result<Vec<_>>>()?;
    stage.in_use(3)?;
    stage.kubectl(&["scale", "sts", "web", "--replicas=1"])?;
    stage.wait("the pods outside to go", LIMIT, || {
        let left = stage.pods("web")?.len();
        Ok(if left == 1 { Look::Done(()) } else { Look::NotYet(format!("{left} are there")) })
    })?;
    stage.in_use(1)?;
    same("the pod that stays", &stage.ready("web-0")?, &holders[0])?;
    for name in ["web-1", "web-2"] {
        ensure!(stage.endpoint(name)?.is_none(), "the endpoint {name} is still there");
    }
    // Scaled to nothing and back: nothing is kept for ordinals that the set does not have.
    stage.kubectl(&["scale", "sts", "web", "--replicas=0"])?;
    stage.in_use(0)?;
    stage.kubectl(&["scale", "sts", "web", "--replicas=2"])?;
    for name in ["web-0", "web-1"] {
        traffic::reaches(stage.world, &stage.ready(name)?)?;
    }
    stage.in_use(2)?;
    stage.finish()
}
