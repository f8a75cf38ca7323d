//! A verb of a pod and whatever else acts on the pod's records wait for each other.

use std::{future::Future, time::Duration};

use holdfast_cni::Plugin;
use holdfast_guard::EventKind;
use serde_json::json;
use tokio::time::Instant;

use super::world::{DEADLINE, FIRST, World, container, eth0, event, exit, invocation, pod};
use crate::node::backend::Guard;

/// Begins an ADD of another sandbox of the pod that hangs until its deadline. Returns how long `other`, which begins right
/// after it, has taken.
async fn beside_an_add(world: &World, other: impl Future<Output = ()>) -> Duration {
    world.fakes.journal.hang("links.configure c2");
    let started = Instant::now();
    let other = async {
        while !world.fakes.journal.lines().iter().any(|line| line.ends_with("hangs")) {
            tokio::task::yield_now().await;
        }
        other.await;
        started.elapsed()
    };
    let (added, took) = tokio::join!(world.add("c2"), other);
    added.unwrap_err();
    took
}

#[tokio::test(start_paused = true)]
async fn a_link_is_verified_after_an_add_of_its_pod() {
    let world = World::with_pod().await;
    let took = beside_an_add(&world, world.see(event(EventKind::Foreign, FIRST))).await;
    assert!(took >= DEADLINE, "{took:?}");
    let done = world.done();
    let at = |line: &str| done.iter().position(|there| there == line).unwrap();
    assert!(at("records.unbind c2 eth0 AddFailed") < at("records.read default/web-0"), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_is_fenced_beside_an_add_of_its_pod_and_collected_after_it() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    let took = beside_an_add(&world, world.see(exit("c1", 101))).await;
    assert!(took >= DEADLINE, "{took:?}");
    let done = world.done();
    let at = |line: &str| done.iter().position(|there| there == line).unwrap();
    assert!(at("guard.mark_stale 11 10.0.0.1") < at("records.unbind c2 eth0 AddFailed"), "{done:?}");
    assert!(at("records.unbind c2 eth0 AddFailed") < at("records.read default/web-0"), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_is_adopted_after_an_add_of_its_pod() {
    let mut world = World::with_pod().await;
    world.fakes.guard.detach_pod_link(FIRST, &container("c1").host_link(&eth0())).unwrap();
    let record = world.fakes.records.endpoint(&pod());
    world.restart();
    let reconciled = async {
        // The list that the reconciliation begins with names the first sandbox.
        world.fakes.records.put_endpoint(&pod(), record);
        world.node.reconciler.reconcile().await.unwrap();
    };
    let took = beside_an_add(&world, reconciled).await;
    assert!(took >= DEADLINE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn garbage_is_collected_after_an_add_of_its_pod() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    let mut request = invocation("", "", Plugin::Holdfast);
    request.config["cni.dev/valid-attachments"] = json!([]);
    let collected = async {
        let deadline = Instant::now() + 2 * DEADLINE;
        world.node.attachments.gc(&request, deadline).await.unwrap();
    };
    let took = beside_an_add(&world, collected).await;
    assert!(took >= DEADLINE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_concern_a_pods_records_does_not_wait_for_its_add() {
    let world = World::with_pod().await;
    let request = invocation("", "", Plugin::Holdfast);
    let asked = async { world.node.attachments.status(&request, Instant::now() + DEADLINE).await.unwrap() };
    assert!(beside_an_add(&world, asked).await < Duration::from_secs(1));
}
