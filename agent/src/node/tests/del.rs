//! DEL: its steps, and what is left when each of them fails.

use std::{path::Path, time::Duration};

use holdfast_cni::{Plugin, code};
use holdfast_core::{id::IfName, mac::Mac};
use holdfast_guard::BindingState::{Current, Stale};

use super::world::{FIRST, INSIDE, NETNS, SECOND, World, address, eth0, invocation, pod};

/// The steps of a DEL. The last two follow the reply.
const STEPS: [&str; 6] = [
    "guard.mark_stale 11 10.0.0.1",
    "guard.forget_sandbox 101",
    "links.delete c1 eth0",
    "records.unbind c1 eth0 SandboxDeleted",
    "links.wait_deleted",
    "guard.detach 11",
];

#[tokio::test(start_paused = true)]
async fn del_silences_the_interface_first_and_takes_the_guard_off_last() {
    let world = World::with_pod().await;
    world.del("c1").await.unwrap();
    assert_eq!(world.done(), STEPS[..4], "before the reply");
    assert_eq!(world.binding(FIRST), Some(Stale));
    world.settle().await;
    assert_eq!(world.done(), STEPS[4..], "after it");
    assert_eq!((world.binding(FIRST), world.fakes.links.routed(FIRST)), (None, None));
    assert_eq!(world.holder(), None);
    assert!(world.fakes.records.endpoint(&pod()).unwrap().lists(address()), "the address waits for the pod");
}

/// The steps before the reply that are done when one fails; and whether the DEL fails.
const OTHERS: [(&[&str], bool); 6] = [
    (&["links.delete c1 eth0", "records.unbind c1 eth0 SandboxDeleted"], true),
    (&["guard.mark_stale 11 10.0.0.1", "links.delete c1 eth0", "records.unbind c1 eth0 SandboxDeleted"], true),
    (&["guard.mark_stale 11 10.0.0.1", "guard.forget_sandbox 101", "records.unbind c1 eth0 SandboxDeleted"], true),
    (&["guard.mark_stale 11 10.0.0.1", "guard.forget_sandbox 101", "links.delete c1 eth0"], true),
    (&STEPS_BEFORE_REPLY, false),
    (&STEPS_BEFORE_REPLY, false),
];
const STEPS_BEFORE_REPLY: [&str; 4] = [STEPS[0], STEPS[1], STEPS[2], STEPS[3]];

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_keeps_no_other_from_being_done() {
    for (step, (others, fails)) in STEPS.into_iter().zip(OTHERS) {
        let world = World::with_pod().await;
        world.fakes.journal.fail(step);
        let outcome = world.del("c1").await;
        assert_eq!(outcome.is_err(), fails, "{step}");
        let done = world.done();
        let done: Vec<_> = done.iter().filter(|line| !line.ends_with(": failed")).collect();
        assert_eq!(done, others.iter().collect::<Vec<_>>(), "{step}");
        world.settle().await;
        world.done();
        // The runtime tries again, or the reconciler comes: nothing is left in the end.
        if fails {
            world.del("c1").await.unwrap();
        }
        world.settle().await;
        world.node.reconciler.reconcile().await.unwrap();
        assert_eq!((world.binding(FIRST), world.fakes.links.routed(FIRST), world.holder()), (None, None, None));
        assert_eq!(world.fakes.guard.link(FIRST), None, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_del_finds_nothing_and_succeeds() {
    let world = World::with_pod().await;
    world.del("c1").await.unwrap();
    world.settle().await;
    world.done();
    world.del("c1").await.unwrap();
    assert_eq!(world.done(), ["links.delete of no link", "records.unbind c1 eth0 SandboxDeleted"]);
}

#[tokio::test(start_paused = true)]
async fn a_late_del_of_an_old_sandbox_changes_nothing_of_the_new_one() {
    let world = World::with_pod().await;
    world.start("c2", 102).await;
    world.del("c1").await.unwrap();
    world.settle().await;
    assert_eq!(world.holder(), Some(("c2".into(), 2)));
    assert_eq!((world.binding(FIRST), world.binding(SECOND)), (None, Some(Current)));
    assert_eq!(world.fakes.links.routed(SECOND), Some(vec![address()]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_no_stateful_set_gives_its_addresses_up() {
    let world = World::new();
    world.fakes.records.make_stateless(&pod());
    world.start("c1", 101).await;
    world.del("c1").await.unwrap();
    world.settle().await;
    assert!(world.done().contains(&"records.release default/web-0 [10.0.0.1]".to_owned()));
    assert_eq!(world.fakes.records.endpoint(&pod()), None);
}

#[tokio::test(start_paused = true)]
async fn a_del_that_names_no_pod_removes_the_interface_alone() {
    let world = World::with_pod().await;
    let mut request = invocation("c1", "eth0", Plugin::Holdfast);
    request.args = None;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    world.node.attachments.del(&request, deadline).await.unwrap();
    assert_eq!(world.done(), STEPS[..3]);
    assert_eq!(world.holder(), Some(("c1".into(), 1)));
}

#[tokio::test(start_paused = true)]
async fn a_del_that_hangs_ends_at_its_deadline() {
    for step in ["links.delete", "records.unbind"] {
        let world = World::with_pod().await;
        world.fakes.journal.hang(step);
        assert_eq!(world.del("c1").await.unwrap_err().code, code::TRY_AGAIN);
        assert_ne!(world.binding(FIRST), Some(Current), "it is silent");
        world.del("c1").await.unwrap();
        world.settle().await;
        assert_eq!((world.fakes.links.routed(FIRST), world.holder()), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_watched_until_its_last_interface_goes() {
    let world = World::with_pod().await;
    world.add_with("c1", "net1", Plugin::Holdfast).await.unwrap();
    world.settle().await;
    world.done();
    world.del_with("c1", "net1", Plugin::Holdfast).await.unwrap();
    world.settle().await;
    assert!(!world.done().contains(&"guard.forget_sandbox 101".to_owned()));
    assert_eq!(world.holder(), Some(("c1".into(), 1)), "it goes on holding what its pod keeps");
    world.del("c1").await.unwrap();
    assert!(world.done().contains(&"guard.forget_sandbox 101".to_owned()));
}

async fn del_delegated(world: &World) {
    world.del_with("c1", "eth0", Plugin::Spiderpool).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delegates_del_keeps_the_guard_until_the_interface_is_gone() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    del_delegated(&world).await;
    assert_eq!(
        world.done(),
        ["guard.mark_stale 2147483648 10.0.0.1", "guard.forget_sandbox 101", "records.unbind c1 eth0 SandboxDeleted"]
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.binding(INSIDE), Some(Stale));
    world.fakes.namespaces.remove(Path::new(NETNS), &eth0());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.done(), ["guard.detach 2147483648"]);
}

#[tokio::test(start_paused = true)]
async fn a_delegates_del_waits_ten_seconds_at_most() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    del_delegated(&world).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(world.fakes.guard.link(INSIDE), None);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_waits_for_what_follows_its_replies_but_for_no_other_plugin() {
    let world = World::new();
    let net1: IfName = "net1".parse().unwrap();
    world.fakes.namespaces.put(Path::new(NETNS), &net1, Mac([5; 6]));
    world.start_delegated("c1", 101).await;
    del_delegated(&world).await;
    let started = tokio::time::Instant::now();
    world.node.drain().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(world.fakes.guard.link(INSIDE), None);
}
