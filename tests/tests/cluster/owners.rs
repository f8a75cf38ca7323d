//! Pods of owners other than StatefulSets: each has an address, released with the pod. And StatefulSets that shrink.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xtask::progress::Poll;

use crate::manifest;
use crate::namespace::{LIMIT, TestNamespace, same, text};
use crate::traffic;

#[test]
fn a_deployments_pod_releases_its_address() -> Result<()> {
    let namespace = TestNamespace::shared("deployment", 5)?;
    namespace.apply(manifest::deployment("front", 1))?;
    let first = namespace.ready_pod("front", "")?;
    let holder = namespace.ready(&first)?;
    traffic::reaches(namespace.world, &holder)?;
    let endpoint = namespace.endpoint(&first)?.context("the endpoint is there")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerType")?, &"Deployment")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerName")?, &"front")?;
    namespace.kubectl(&["delete", "pod", &first, "--wait=false"])?;
    let second = namespace.ready_pod("front", &first)?;
    let after = namespace.ready(&second)?;
    ensure!(after.ipv4 != holder.ipv4, "the next pod got an address that has not rested: {after:?}");
    namespace.in_use(1)?;
    ensure!(namespace.endpoint(&first)?.is_none(), "the endpoint of {first} is still there");
    namespace.kubectl(&["scale", "deployment", "front", "--replicas=0"])?;
    namespace.in_use(0)?;
    namespace.finish()
}

#[test]
fn a_finished_jobs_address_is_released() -> Result<()> {
    let namespace = TestNamespace::shared("job", 5)?;
    let mut template = manifest::template("work");
    template["spec"]["restartPolicy"] = json!("Never");
    template["spec"]["containers"][0]["command"] = json!(["sh", "-c", "until [ -e /tmp/done ]; do sleep 0.2; done"]);
    namespace.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": {"template": template},
    }))?;
    let pod = namespace.ready_pod("work", "")?;
    let holder = namespace.ready(&pod)?;
    let endpoint = namespace.endpoint(&pod)?.context("the endpoint is there")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerType")?, &"Job")?;
    traffic::reaches(namespace.world, &holder)?;
    namespace.in_use(1)?;
    namespace.kubectl(&["exec", &pod, "--", "touch", "/tmp/done"])?;
    namespace.kubectl(&["wait", "--for=condition=complete", "job/work", "--timeout=60s"])?;
    namespace.in_use(0)?;
    ensure!(
        namespace.pod(&pod)?.is_some_and(|pod| pod["status"]["phase"] == "Succeeded"),
        "the finished pod should stay"
    );
    ensure!(namespace.endpoint(&pod)?.is_none(), "the endpoint is still there");
    namespace.finish()
}

#[test]
fn a_bare_pods_address_is_released_with_it() -> Result<()> {
    let namespace = TestNamespace::shared("bare", 5)?;
    namespace.apply(manifest::pod("alone"))?;
    let first = namespace.ready("alone")?;
    let endpoint = namespace.endpoint("alone")?.context("the endpoint is there")?;
    same("the owner", &text(&endpoint, "/status/ownerControllerType")?, &"Pod")?;
    traffic::reaches(namespace.world, &first)?;
    namespace.kubectl(&["delete", "pod", "alone", "--force", "--grace-period=0"])?;
    namespace.in_use(0)?;
    // A pod of the same name has another identity.
    namespace.apply(manifest::pod("alone"))?;
    let second = namespace.ready_as("alone", |now| now.uid != first.uid)?;
    traffic::reaches(namespace.world, &second)?;
    namespace.in_use(1)?;
    namespace.finish()
}

#[test]
fn a_smaller_stateful_set_keeps_only_its_ordinals() -> Result<()> {
    let namespace = TestNamespace::shared("scale", 5)?;
    namespace.apply(manifest::stateful_set("web", 3))?;
    let holders =
        ["web-0", "web-1", "web-2"].map(|name| namespace.ready(name)).into_iter().collect::<Result<Vec<_>>>()?;
    namespace.in_use(3)?;
    namespace.kubectl(&["scale", "sts", "web", "--replicas=1"])?;
    namespace.wait("the pods outside to go", LIMIT, || {
        let left = namespace.pods("web")?.len();
        Ok(if left == 1 { Poll::Ready(()) } else { Poll::Pending(format!("{left} are there")) })
    })?;
    namespace.in_use(1)?;
    same("the pod that stays", &namespace.ready("web-0")?, &holders[0])?;
    for name in ["web-1", "web-2"] {
        ensure!(namespace.endpoint(name)?.is_none(), "the endpoint {name} is still there");
    }
    // Scaled to nothing and back: nothing is kept for ordinals that the set does not have.
    namespace.kubectl(&["scale", "sts", "web", "--replicas=0"])?;
    namespace.in_use(0)?;
    namespace.kubectl(&["scale", "sts", "web", "--replicas=2"])?;
    for name in ["web-0", "web-1"] {
        traffic::reaches(namespace.world, &namespace.ready(name)?)?;
    }
    namespace.in_use(2)?;
    namespace.finish()
}
