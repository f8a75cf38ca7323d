//! A pool with no address left: the pod's event says which, how large and who has them; the next free one is used.

use anyhow::{Result, ensure};

use crate::manifest;
use crate::namespace::{LIMIT, TestNamespace, is_ready, text};
use crate::traffic;
use xtask::progress::Poll;

#[test]
fn an_exhausted_pool_is_reported_and_its_next_free_address_used() -> Result<()> {
    let namespace = TestNamespace::shared("full", 2)?;
    namespace.apply(manifest::stateful_set("web", 2))?;
    let holders = [namespace.ready("web-0")?, namespace.ready("web-1")?];
    namespace.apply(manifest::deployment("late", 1))?;
    let late = namespace.wait("the late pod", LIMIT, || {
        let pod = namespace.pods("late")?.into_iter().next();
        Ok(pod.map_or_else(|| Poll::Pending("it is not there".into()), Poll::Ready))
    })?;
    let late = text(&late, "/metadata/name")?;
    let holders_named = ["web-0", "web-1"].map(|pod| format!("{}/{pod}", namespace.name));
    let [first, second] = &holders_named;
    namespace.event(late, &["exhausted", &namespace.pool4, &namespace.pool6, "2 addresses", first, second])?;
    ensure!(namespace.endpoint(late)?.is_none(), "a pod without an address has an endpoint");
    ensure!(!namespace.pod(late)?.is_some_and(|pod| is_ready(&pod)), "the pod runs without an address");

    namespace.kubectl(&["scale", "sts", "web", "--replicas=1"])?;
    let holder = namespace.ready(late)?;
    ensure!(holder.addresses() == holders[1].addresses(), "{holder:?} did not get what {:?} left", holders[1]);
    traffic::reaches(namespace.world, &holder)?;
    ensure!(namespace.holder("web-0")? == holders[0], "the other pod's holder changed");
    namespace.finish()
}
