//! Pools that a pod gets without naming any: its namespace's, and those marked as default.

use anyhow::{Context, Result};
use serde_json::json;

use crate::namespace::{TestNamespace, same};
use crate::{manifest, traffic};

const ANNOTATIONS: [&str; 2] = ["ipam.spidernet.io/default-ipv4-ippool", "ipam.spidernet.io/default-ipv6-ippool"];

/// An error unless the pod's addresses are from these pools.
fn from_pools(namespace: &TestNamespace, pod: &str, pools: &[String; 2]) -> Result<()> {
    let endpoint = namespace.endpoint(pod)?.context("the endpoint is there")?;
    let ip = &endpoint["status"]["current"]["ips"][0];
    same("the pools", &[&ip["ipv4Pool"], &ip["ipv6Pool"]], &[&json!(pools[0]), &json!(pools[1])])
}

#[test]
fn a_changed_default_pool_moves_no_sticky_address() -> Result<()> {
    let namespace = TestNamespace::shared("defaults", 4)?;
    let more = namespace.more_pools(4, &json!({}))?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let before = namespace.ready("web-0")?;
    for (annotation, pool) in ANNOTATIONS.iter().zip(&more) {
        let annotation = format!("{annotation}={}", json!([pool]));
        namespace.kubectl(&["annotate", "--overwrite", "namespace", &namespace.name, &annotation])?;
    }
    namespace.kubectl(&["delete", "pod", "web-0", "--wait=false"])?;
    let after = namespace.ready_as("web-0", |now| now.uid != before.uid)?;
    before.sticks(&after)?;
    from_pools(&namespace, "web-0", &[namespace.pool4.clone(), namespace.pool6.clone()])?;
    // Pods without an address get one of the new pools, also in the same set.
    namespace.apply(manifest::deployment("front", 1))?;
    namespace.scale("sts/web", 2)?;
    for pod in [namespace.ready_pod("front", "")?, "web-1".to_owned()] {
        traffic::reaches(namespace.world, &namespace.ready(&pod)?)?;
        from_pools(&namespace, &pod, &more)?;
    }
    namespace.finish()
}

#[test]
fn a_default_pool_is_used_where_no_pool_is_named() -> Result<()> {
    let namespace = TestNamespace::shared("marked", 4)?;
    for annotation in ANNOTATIONS {
        namespace.kubectl(&["annotate", "namespace", &namespace.name, &format!("{annotation}-")])?;
    }
    namespace.apply(manifest::pod("front"))?;
    namespace.event("front", &["no pool is named", "none is marked default"])?;
    // Only for this namespace: other tests' pods have nothing to do with it.
    let marked = json!({"spec": {"default": true, "namespaceName": [namespace.name]}}).to_string();
    for pool in [&namespace.pool4, &namespace.pool6] {
        namespace.kubectl(&["patch", "sp", pool, "--type=merge", "--patch", &marked])?;
    }
    traffic::reaches(namespace.world, &namespace.ready("front")?)?;
    from_pools(&namespace, "front", &[namespace.pool4.clone(), namespace.pool6.clone()])?;
    namespace.finish()
}
