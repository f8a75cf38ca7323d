//! A pool with no address left: the pod's event says which, how large and who has them; the next free one is used.

use anyhow::{Result, ensure};

use crate::manifest;
use crate::stage::{LIMIT, Stage, is_ready, text};
use crate::traffic;
use xtask::progress::Look;

#[test]
fn the_pod_says_what_holds_the_pool_and_gets_the_next_free_address() -> Result<()> {
    let stage = Stage::new("full", 2)?;
    stage.apply(manifest::stateful_set("web", 2))?;
    let holders = [stage.ready("web-0")?, stage.ready("web-1")?];
    stage.apply(manifest::deployment("late", 1))?;
    let late = stage.wait("the late pod", LIMIT, || {
        let pod = stage.pods("late")?.into_iter().next();
        Ok(pod.map_or_else(|| Look::NotYet("it is not there".into()), Look::Done))
    })?;
    let late = text(&late, "/metadata/name")?;
    let namespace = &stage.namespace;
    let holders_named = [format!("{namespace}/web-0"), format!("{namespace}/web-1")];
    let [first, second] = &holders_named;
    stage.event(late, &["exhausted", &stage.pool4, &stage.pool6, "2 addresses", first, second])?;
    ensure!(stage.endpoint(late)?.is_none(), "a pod without an address has an endpoint");
    ensure!(!stage.pod(late)?.is_some_and(|pod| is_ready(&pod)), "the pod runs without an address");

    stage.kubectl(&["scale", "sts", "web", "--replicas=1"])?;
    let holder = stage.ready(late)?;
    ensure!(holder.addresses() == holders[1].addresses(), "{holder:?} did not get what {:?} left", holders[1]);
    traffic::reaches(stage.world, &holder)?;
    ensure!(stage.holder("web-0")? == holders[0], "the other pod's holder changed");
    stage.finish()
}
