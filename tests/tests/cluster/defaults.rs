//! Pools that a pod gets without naming any: its namespace's, and those marked as default.

use anyhow::{Context, Result};
use serde_json::json;

use crate::stage::{Stage, same};
use crate::{manifest, traffic};

const ANNOTATIONS: [&str; 2] = ["ipam.spidernet.io/default-ipv4-ippool", "ipam.spidernet.io/default-ipv6-ippool"];

/// An error unless the pod's addresses are from these pools.
fn from_pools(stage: &Stage, pod: &str, pools: &[String; 2]) -> Result<()> {
    let endpoint = stage.endpoint(pod)?.context("the endpoint is there")?;
    let ip = &endpoint["status"]["current"]["ips"][0];
    same("the pools", &[&ip["ipv4Pool"], &ip["ipv6Pool"]], &[&json!(pools[0]), &json!(pools[1])])
}

#[test]
fn another_default_moves_no_sticky_address() -> Result<()> {
    let stage = Stage::new("defaults", 4)?;
    let more = stage.more_pools(4, &json!({}))?;
    stage.apply(manifest::stateful_set("web", 1))?;
    let before = stage.ready("web-0")?;
    for (annotation, pool) in ANNOTATIONS.iter().zip(&more) {
        let annotation = format!("{annotation}={}", json!([pool]));
        stage.kubectl(&["annotate", "--overwrite", "namespace", &stage.namespace, &annotation])?;
    }
    stage.kubectl(&["delete", "pod", "web-0", "--wait=false"])?;
    let after = stage.ready_as("web-0", |now| now.uid != before.uid)?;
    before.sticks(&after)?;
    from_pools(&stage, "web-0", &[stage.pool4.clone(), stage.pool6.clone()])?;
    // Whoever has no address yet gets one of the new pools, in the same set too.
    stage.apply(manifest::deployment("front", 1))?;
    stage.scale("sts/web", 2)?;
    for pod in [stage.ready_pod("front", "")?, "web-1".to_owned()] {
        traffic::reaches(stage.world, &stage.ready(&pod)?)?;
        from_pools(&stage, &pod, &more)?;
    }
    stage.finish()
}

#[test]
fn a_pool_marked_as_default_serves_where_nothing_is_named() -> Result<()> {
    let stage = Stage::new("marked", 4)?;
    for annotation in ANNOTATIONS {
        stage.kubectl(&["annotate", "namespace", &stage.namespace, &format!("{annotation}-")])?;
    }
    stage.apply(manifest::pod("front"))?;
    stage.event("front", &["no pool is named", "none is marked default"])?;
    // Only for this namespace: other tests' pods have nothing to do with it.
    let marked = json!({"spec": {"default": true, "namespaceName": [stage.namespace]}}).to_string();
    for pool in [&stage.pool4, &stage.pool6] {
        stage.kubectl(&["patch", "sp", pool, "--type=merge", "--patch", &marked])?;
    }
    traffic::reaches(stage.world, &stage.ready("front")?)?;
    from_pools(&stage, "front", &[stage.pool4.clone(), stage.pool6.clone()])?;
    stage.finish()
}
