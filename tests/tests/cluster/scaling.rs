//! Workloads that shrink and grow while others wait for their addresses.

use anyhow::Result;

use crate::invariants::Invariants;
use crate::manifest;
use crate::namespace::{TestNamespace, is_ready, same};

#[test]
fn an_ordinal_stays_while_a_deployment_drains_the_pool() -> Result<()> {
    let namespace = TestNamespace::shared("drain", 5)?;
    namespace.apply(manifest::stateful_set("web", 3))?;
    namespace.apply(manifest::deployment("front", 0))?;
    let mut invariants = Invariants::new(&namespace);
    invariants.settles(&[("web", 3), ("front", 0)])?;
    let first = namespace.ready("web-0")?;
    for _ in 0..2 {
        namespace.scale("sts/web", 1)?;
        namespace.scale("deployment/front", 4)?;
        invariants.settles(&[("web", 1), ("front", 4)])?;
        namespace.scale("deployment/front", 0)?;
        namespace.scale("sts/web", 3)?;
        invariants.settles(&[("web", 3), ("front", 0)])?;
        same("the pod that stays", &namespace.holder("web-0")?, &first)?;
    }
    namespace.in_use(3)?;
    namespace.finish()
}

#[test]
fn two_sets_share_a_pool_of_half_their_size() -> Result<()> {
    let namespace = TestNamespace::shared("share", 5)?;
    let mut invariants = Invariants::new(&namespace);
    namespace.apply(manifest::stateful_set("one", 5))?;
    invariants.settles(&[("one", 5)])?;
    namespace.apply(manifest::stateful_set("two", 5))?;
    namespace.event("two-0", &["exhausted", &namespace.pool4, &namespace.pool6])?;
    let count = |pods: &[serde_json::Value], app: &str| {
        pods.iter().filter(|pod| is_ready(pod) && pod["metadata"]["labels"]["app"] == app).count()
    };
    namespace.scale("sts/one", 0)?;
    invariants.until("a pod of the other set", |pods| count(pods, "two") > 0)?;
    namespace.scale("sts/one", 5)?;
    invariants.until("five pods in all", |pods| pods.len() == 10 && count(pods, "one") + count(pods, "two") == 5)?;
    namespace.in_use(5)?;
    same("endpoints", &namespace.endpoints()?.len(), &5)?;
    namespace.finish()
}
