//! ADD: its steps, and what is undone when each of them fails.

use std::{path::Path, time::Duration};

use holdfast_cni::{Plugin, code};
use holdfast_core::mac::Mac;
use holdfast_guard::BindingState::{Current, Stale};

use super::world::{FIRST, INSIDE, NETNS, SECOND, World, address, eth0, pod};

/// The steps of an ADD.
const STEPS: [&str; 7] = [
    "links.create c1 eth0",
    "records.bind c1 eth0",
    "guard.attach 11",
    "links.configure c1 eth0",
    "guard.bind 11 10.0.0.1 1",
    "links.advertise c1 eth0",
    "guard.attach_uplink 10",
];

const STALE: &str = "guard.mark_stale 11 10.0.0.1";
const DELETE: &str = "links.delete c1 eth0";
const UNBIND: &str = "records.unbind c1 eth0 AddFailed";
const GONE: &str = "links.wait_deleted";
const DETACH: &str = "guard.detach 11";

#[tokio::test(start_paused = true)]
async fn add_guards_the_link_before_it_is_up_and_binds_before_the_address_moves() {
    let world = World::new();
    let result = world.add("c1").await.unwrap();
    assert_eq!(world.done(), STEPS);
    assert_eq!(world.binding(FIRST), Some(Current));
    assert_eq!(world.fakes.links.routed(FIRST), Some(vec![address()]));
    assert_eq!(world.holder(), Some(("c1".into(), 1)));
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.1/24");
    assert_eq!(result.ips[0].interface, Some(1), "the second interface is the pod's");
    assert_eq!(result.interfaces[1].sandbox.as_deref(), Some(NETNS));
}

/// The undo that follows each step that fails.
const UNDONE: [&[&str]; 7] = [
    // The other of the two that run at the same time comes to its end.
    &["records.bind c1 eth0", "links.delete of no link", UNBIND, GONE],
    // The records have taken back what they wrote themselves.
    &[DELETE, GONE],
    &[DELETE, UNBIND, GONE],
    &[DELETE, UNBIND, GONE, DETACH],
    &[STALE, DELETE, UNBIND, GONE, DETACH],
    &[STALE, DELETE, UNBIND, GONE, DETACH],
    &[STALE, DELETE, UNBIND, GONE, DETACH],
];

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_has_those_before_it_undone_in_reverse() {
    for (index, undone) in UNDONE.iter().enumerate() {
        let world = World::new();
        world.fakes.journal.fail(STEPS[index]);
        let error = world.add("c1").await.unwrap_err();
        assert!(error.msg.contains("default/web-0"), "{}", error.msg);
        world.settle().await;
        let failed = format!("{}: failed", STEPS[index]);
        let expected: Vec<_> =
            STEPS[..index].iter().copied().chain([failed.as_str()]).chain(undone.iter().copied()).collect();
        assert_eq!(world.done(), expected, "after a failed {}", STEPS[index]);
        assert_eq!((world.binding(FIRST), world.fakes.links.routed(FIRST)), (None, None));
        assert_eq!(world.fakes.guard.link(FIRST), None);
        assert_eq!(world.holder(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_can_be_tried_again() {
    for step in STEPS {
        let world = World::new();
        world.fakes.journal.fail(step);
        world.add("c1").await.unwrap_err();
        world.settle().await;
        world.add("c1").await.unwrap();
        assert_eq!(world.binding(SECOND).or(world.binding(FIRST)), Some(Current), "after a failed {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_goes_on_with_the_next_step() {
    for (undo, left) in [(DELETE, true), (UNBIND, false), (GONE, false), (DETACH, false), (STALE, false)] {
        let world = World::new();
        world.fakes.journal.fail("links.advertise");
        world.fakes.journal.fail(undo);
        world.add("c1").await.unwrap_err();
        world.settle().await;
        let done = world.done();
        assert!(done.contains(&format!("{undo}: failed")), "{done:?}");
        for step in [STALE, DELETE, UNBIND].into_iter().filter(|step| *step != undo) {
            assert!(done.iter().any(|line| line == step), "no {step} after a failed {undo}: {done:?}");
        }
        assert_eq!(world.fakes.links.routed(FIRST).is_some(), left, "after a failed {undo}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_sandbox_keeps_what_a_failed_add_had_not_taken_from_it() {
    for (step, binding) in [("links.configure", Current), ("guard.bind", Current), ("links.advertise", Stale)] {
        let world = World::with_pod().await;
        world.fakes.journal.fail(step);
        world.add("c2").await.unwrap_err();
        world.settle().await;
        assert_eq!(world.fakes.links.routed(FIRST), Some(vec![address()]), "after a failed {step}");
        assert_eq!(world.fakes.links.routed(SECOND), None);
        assert_eq!(world.binding(FIRST), Some(binding), "after a failed {step}");
        assert_eq!(world.holder(), None, "the address stays reserved");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_ends_at_the_deadline_and_is_undone() {
    for step in ["links.create", "records.bind", "links.configure", "links.advertise"] {
        let world = World::new();
        world.fakes.journal.hang(step);
        let error = world.add("c1").await.unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN);
        assert!(error.msg.contains("deadline"), "{}", error.msg);
        world.settle().await;
        assert!(world.done().contains(&UNBIND.to_owned()), "what was written at the deadline is not known");
        assert_eq!((world.binding(FIRST), world.fakes.links.routed(FIRST), world.holder()), (None, None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_hangs_does_not_keep_the_answer() {
    let world = World::new();
    world.fakes.journal.fail("guard.attach_uplink");
    world.fakes.journal.hang("links.delete");
    let started = tokio::time::Instant::now();
    world.add("c1").await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert_eq!(world.binding(FIRST), Some(Stale), "it is silent");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_add_gives_the_same_result() {
    let world = World::with_pod().await;
    let (first, second) = (world.add("c1").await.unwrap(), world.add("c1").await.unwrap());
    assert_eq!(first, second);
    assert_eq!(world.holder(), Some(("c1".into(), 1)));
    assert_eq!(world.binding(FIRST), Some(Current));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_add_that_fails_leaves_the_interface_as_it_is() {
    for step in STEPS {
        let world = World::with_pod().await;
        world.fakes.journal.fail(step);
        world.add("c1").await.unwrap_err();
        world.settle().await;
        assert!(!world.done().iter().any(|line| line.contains("delete") || line.contains("unbind")));
        assert_eq!(world.binding(FIRST), Some(Current));
        assert_eq!(world.holder(), Some(("c1".into(), 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_verbs_of_one_pod_wait_for_each_other() {
    let world = World::new();
    world.fakes.journal.hang("links.configure");
    let (add, del) = tokio::join!(world.add("c1"), world.del("c1"));
    assert_eq!(add.unwrap_err().code, code::TRY_AGAIN);
    assert_eq!(del.unwrap_err().code, code::TRY_AGAIN, "its deadline is the ADD's");
    assert!(!world.done().iter().any(|line| line.contains("SandboxDeleted")));
}

#[tokio::test(start_paused = true)]
async fn addresses_that_a_pod_moved_away_from_are_released_after_the_new_ones_work() {
    let world = World::with_pod().await;
    world.fakes.records.move_pod(&pod(), [10, 0, 0, 2].into());
    world.add("c2").await.unwrap();
    world.settle().await;
    let done = world.done();
    let at = |line: &str| done.iter().position(|there| there == line).unwrap_or_else(|| panic!("{line} in {done:?}"));
    assert!(at("links.advertise c2 eth0") < at("records.release default/web-0 [10.0.0.1]"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_exist_gets_no_address() {
    let world = World::new();
    world.fakes.records.remove_pod(&pod());
    assert_eq!(world.add("c1").await.unwrap_err().code, code::UNKNOWN_CONTAINER);
    world.settle().await;
    assert_eq!(world.fakes.links.routed(FIRST), None);
}

async fn add_delegated(world: &World) -> Result<(), holdfast_cni::CniError> {
    world.add_with("c2", "eth0", Plugin::Spiderpool).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_delegates_add_silences_older_sandboxes_and_guards_the_interface_that_is_there() {
    let world = World::with_pod().await;
    world.fakes.namespaces.put(Path::new(NETNS), &eth0(), Mac([4; 6]));
    add_delegated(&world).await.unwrap();
    let guarded = ["records.bind c2 eth0", STALE, "guard.attach_inside eth0", "guard.bind 2147483648 10.0.0.1 2"];
    assert_eq!(world.done(), guarded, "all before the reply");
    world.settle().await;
    assert_eq!(
        world.done(),
        ["guard.attach_shared_uplink 10", "namespaces.announce eth0 [10.0.0.1]"],
        "and these after it"
    );
    assert_eq!((world.binding(FIRST), world.binding(INSIDE)), (Some(Stale), Some(Current)));
}

#[tokio::test(start_paused = true)]
async fn a_delegates_add_undoes_what_fails_before_the_reply() {
    for (step, undone) in [("records.bind c2 eth0", &[][..]), (STALE, &["records.unbind c2 eth0 AddFailed"][..])] {
        let world = World::with_pod().await;
        world.fakes.journal.fail(step);
        add_delegated(&world).await.unwrap_err();
        world.settle().await;
        let done = world.done();
        let failed = done.iter().position(|line| line.ends_with("failed")).unwrap();
        assert_eq!(done[failed + 1..], *undone, "after a failed {step}");
        assert_eq!(world.fakes.guard.link(INSIDE), None);
    }
    let world = World::new();
    world.fakes.journal.hang("records.bind");
    assert_eq!(add_delegated(&world).await.unwrap_err().code, code::TRY_AGAIN);
    world.settle().await;
    assert_eq!(world.done(), ["records.bind c2 eth0: hangs", "records.unbind c2 eth0 AddFailed"]);
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_did_not_get_onto_a_delegates_interface_is_tried_again() {
    for step in ["guard.attach_inside", "guard.bind"] {
        let world = World::new();
        world.fakes.namespaces.put(Path::new(NETNS), &eth0(), Mac([4; 6]));
        world.fakes.journal.fail(step);
        add_delegated(&world).await.unwrap();
        world.settle().await;
        let bound = [INSIDE, holdfast_core::id::IfIndex(INSIDE.0 + 1)].map(|link| world.binding(link));
        assert!(bound.contains(&Some(Current)), "after a failed {step}: {bound:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_another_plugin_makes_later_is_guarded_then() {
    let world = World::new();
    add_delegated(&world).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.done(), ["records.bind c2 eth0"]);
    world.fakes.namespaces.put(Path::new(NETNS), &eth0(), Mac([4; 6]));
    world.settle().await;
    assert_eq!(world.binding(INSIDE), Some(Current));
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_is_not_wanted_any_more_is_not_guarded() {
    let world = World::new();
    add_delegated(&world).await.unwrap();
    world.del_with("c2", "eth0", Plugin::Spiderpool).await.unwrap();
    world.fakes.namespaces.put(Path::new(NETNS), &eth0(), Mac([4; 6]));
    world.settle().await;
    assert_eq!(world.fakes.guard.link(INSIDE), None);
}
