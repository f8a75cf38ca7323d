//! Workloads that shrink and grow while others wait for their addresses.

use anyhow::Result;

use crate::invariants::Invariants;
use crate::manifest;
use crate::stage::{Stage, is_ready, same};

#[test]
fn an_ordinal_stays_while_a_deployment_drains_the_pool() -> Result<()> {
    let stage = Stage::new("drain", 5)?;
    stage.apply(manifest::stateful_set("web", 3))?;
    stage.apply(manifest::deployment("front", 0))?;
    let mut invariants = Invariants::new(&stage);
    invariants.settles(&[("web", 3), ("front", 0)])?;
    let first = stage.ready("web-0")?;
    for _ in 0..2 {
        stage.scale("sts/web", 1)?;
        stage.scale("deployment/front", 4)?;
        invariants.settles(&[("web", 1), ("front", 4)])?;
        stage.scale("deployment/front", 0)?;
        stage.scale("sts/web", 3)?;
        invariants.settles(&[("web", 3), ("front", 0)])?;
        same("the pod that stays", &stage.holder("web-0")?, &first)?;
    }
    stage.in_use(3)?;
    stage.finish()
}

#[test]
fn two_sets_share_a_pool_of_half_their_size() -> Result<()> {
    let stage = Stage::new("share", 5)?;
    let mut invariants = Invariants::new(&stage);
    stage.apply(manifest::stateful_set("one", 5))?;
    invariants.settles(&[("one", 5)])?;
    stage.apply(manifest::stateful_set("two", 5))?;
    stage.event("two-0", &["exhausted", &stage.pool4, &stage.pool6])?;
    let count = |pods: &[serde_json::Value], app: &str| {
        pods.iter().filter(|pod| is_ready(pod) && pod["metadata"]["labels"]["app"] == app).count()
    };
    stage.scale("sts/one", 0)?;
    invariants.until("a pod of the other set", |pods| count(pods, "two") > 0)?;
    stage.scale("sts/one", 5)?;
    invariants.until("five pods in all", |pods| pods.len() == 10 && count(pods, "one") + count(pods, "two") == 5)?;
    stage.in_use(5)?;
    same("endpoints", &stage.endpoints()?.len(), &5)?;
    stage.finish()
}
