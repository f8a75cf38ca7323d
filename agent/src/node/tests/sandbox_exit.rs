//! The ends of sandboxes: two observations, and sandboxes that have another process.

use std::time::Duration;

use holdfast_guard::BindingState::{Current, Stale};
use holdfast_ipam::SANDBOX_DIED;

use super::world::{FIRST, INSIDE, UID, World, address, container, exit, pod};
use crate::node::backend::{Guard, Records};

const FENCED: &str = "guard.mark_stale 11 10.0.0.1";
const READ: &str = "records.read default/web-0";
const COLLECTED: &str = "records.end_holder c1 SandboxDied";
const FORGOTTEN: &str = "guard.forget_sandbox 101";

#[tokio::test(start_paused = true)]
async fn the_first_observation_fences_and_the_second_collects() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    let handled = tokio::spawn(world.node.driver.handle(exit("c1", 101)));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.done(), [FENCED]);
    assert_eq!((world.binding(FIRST), world.holder()), (Some(Stale), Some(("c1".into(), 1))));
    tokio::time::sleep(Duration::from_millis(198)).await;
    assert_eq!(world.done(), [""; 0], "not before its time");
    handled.await.unwrap();
    assert_eq!(world.done(), [READ, COLLECTED, "links.withdraw c1 eth0", FORGOTTEN]);
    assert_eq!(world.holder(), None);
    let record = world.fakes.records.endpoint(&pod()).unwrap();
    assert!(record.lists(address()), "the address stays the pod's");
    assert_eq!(record.record().history[0].reason, SANDBOX_DIED);
    assert_eq!(world.fakes.links.routed(FIRST), Some(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_has_another_process_lives_on_and_that_one_is_watched() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    world.fakes.processes.start(102, &container("c1"), UID);
    world.see(exit("c1", 101)).await;
    world.settle().await;
    assert_eq!(world.done(), [FORGOTTEN, "guard.watch_sandbox 102"]);
    assert_eq!((world.binding(FIRST), world.holder()), (Some(Current), Some(("c1".into(), 1))));
    world.fakes.processes.end(102);
    world.see(exit("c1", 102)).await;
    assert_eq!(world.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_is_seen_alive_the_second_time_keeps_its_record() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    let handled = tokio::spawn(world.node.driver.handle(exit("c1", 101)));
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.fakes.processes.start(102, &container("c1"), UID);
    handled.await.unwrap();
    assert_eq!(world.done(), [FENCED, READ, "guard.bind 11 10.0.0.1 1", FORGOTTEN]);
    assert_eq!((world.binding(FIRST), world.holder()), (Some(Current), Some(("c1".into(), 1))));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_got_a_newer_sandbox_meanwhile_keeps_its_record() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    let handled = tokio::spawn(world.node.driver.handle(exit("c1", 101)));
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.add("c2").await.unwrap();
    handled.await.unwrap();
    assert_eq!(world.holder(), Some(("c2".into(), 2)));
}

#[tokio::test(start_paused = true)]
async fn a_second_observation_that_fails_is_left_to_the_reconciler() {
    for step in ["records.read", "records.end_holder"] {
        let world = World::with_pod().await;
        world.fakes.processes.end(101);
        world.fakes.journal.fail(step);
        world.see(exit("c1", 101)).await;
        assert_eq!((world.binding(FIRST), world.holder()), (Some(Stale), Some(("c1".into(), 1))), "fenced, recorded");
        world.node.reconciler.reconcile().await.unwrap();
        assert_eq!(world.holder(), None, "after a failed {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_map_that_cannot_be_written_is_repaired_by_the_reconciler() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    world.fakes.journal.fail(FENCED);
    world.see(exit("c1", 101)).await;
    world.node.reconciler.reconcile().await.unwrap();
    assert_eq!(world.binding(FIRST), Some(Stale));
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_is_reported_twice_is_collected_once() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    world.see(exit("c1", 101)).await;
    world.done();
    world.see(exit("c1", 101)).await;
    assert!(!world.done().contains(&FENCED.to_owned()));
    assert_eq!(world.fakes.records.endpoint(&pod()).unwrap().record().history.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_exit_of_a_container_that_is_not_known_changes_nothing() {
    let world = World::with_pod().await;
    world.see(exit("c7", 107)).await;
    assert_eq!(world.done(), ["guard.forget_sandbox 107"]);
    assert_eq!((world.binding(FIRST), world.holder()), (Some(Current), Some(("c1".into(), 1))));
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_an_earlier_agent_had_watched_is_handled() {
    let mut world = World::with_pod().await;
    world.restart();
    world.fakes.processes.end(101);
    world.see(exit("c1", 101)).await;
    assert_eq!(world.done(), [FENCED, READ, COLLECTED, "links.withdraw c1 eth0", FORGOTTEN]);
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_came_while_no_agent_ran_is_found_by_the_reconciler() {
    let mut world = World::with_pod().await;
    world.fakes.processes.end(101);
    world.restart();
    world.node.reconciler.reconcile().await.unwrap();
    assert_eq!((world.holder(), world.binding(FIRST)), (None, Some(Stale)));
    assert_eq!(world.fakes.guard.sandboxes().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn without_a_tracepoint_the_processs_own_descriptor_reports_its_end() {
    let world = World::new();
    world.fakes.guard.remove_tracepoint();
    world.start("c1", 101).await;
    world.fakes.processes.end(101);
    world.settle().await;
    assert_eq!(world.done(), [FENCED, READ, COLLECTED, "links.withdraw c1 eth0", FORGOTTEN]);
    assert_eq!(world.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_whose_process_comes_late_is_watched_then() {
    let world = World::new();
    world.add("c1").await.unwrap();
    world.done();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.done(), [""; 0]);
    world.fakes.processes.start(101, &container("c1"), UID);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.done(), ["guard.watch_sandbox 101"]);
}

#[tokio::test(start_paused = true)]
async fn the_search_for_a_process_ends_and_the_reconciler_takes_it_up() {
    let world = World::new();
    world.add("c1").await.unwrap();
    world.settle().await;
    world.fakes.processes.start(101, &container("c1"), UID);
    world.settle().await;
    assert_eq!(world.fakes.guard.sandboxes().unwrap(), []);
    world.node.reconciler.reconcile().await.unwrap();
    assert_eq!(world.fakes.guard.sandboxes().unwrap(), [(101, container("c1").tag())]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_sandbox_inside_whose_namespace_the_guard_sits_is_collected() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    world.fakes.processes.end(101);
    world.see(exit("c1", 101)).await;
    assert_eq!((world.binding(INSIDE), world.holder()), (Some(Stale), None));
    let ended = world.fakes.records.pod_record(&pod(), &"eth0".parse().unwrap()).await.unwrap();
    assert_eq!(ended.addresses, [address()]);
}
