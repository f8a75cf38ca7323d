//! The guard's events: each kind is handed to the machine, and what the machine asks for is carried out.
//!
//! | action | test |
//! |---|---|
//! | `MakeCurrent` | [`a_violation_of_a_holder_that_a_crash_left_out_makes_it_current_again`], each ADD |
//! | `MakeStale` | [`a_container_that_was_dismissed_is_fenced_though_it_runs`], each DEL |
//! | `Verify`, `Report` | [`each_violation_is_reported_and_has_its_link_verified`] |
//! | `Rebind` | [`a_live_sandbox_of_a_pod_whose_recorded_one_is_dead_is_rebound`] |
//! | `Collect` | [`super::sandbox_exit`] |
//! | `Withdraw` | [`a_container_whose_pod_moved_on_is_fenced`] |

use std::time::Duration;

use holdfast_api::event_recorder::{EventType, Regarding};
use holdfast_core::{
    id::{Generation, IfIndex},
    mac::Mac,
};
use holdfast_guard::{
    BindingState::{Current, Stale},
    EventKind, GuardEvent, Holder,
};

use super::world::{FIRST, INSIDE, SECOND, World, address, container, event, pod, spec};
use crate::node::backend::{Guard, Records};

const READ: &str = "records.read default/web-0";

#[tokio::test(start_paused = true)]
async fn each_violation_is_reported_and_has_its_link_verified() {
    for (kind, reason) in [
        (EventKind::Stale, "StaleContainerFenced"),
        (EventKind::LeaseExpired, "StaleContainerFenced"),
        (EventKind::Foreign, "SourceViolation"),
        (EventKind::Mac, "SourceViolation"),
    ] {
        let mut world = World::with_pod().await;
        world.see(event(kind, FIRST)).await;
        assert_eq!(world.done(), [READ], "{kind:?}");
        let recorded = world.recorded();
        let [recorded] = recorded.as_slice() else { panic!("{recorded:?}") };
        assert_eq!((recorded.reason, recorded.type_), (reason, EventType::Warning));
        assert_eq!(recorded.regarding, Regarding::Pod(pod()));
        assert_eq!(recorded.action, "Guard 10.0.0.1");
        assert!(recorded.note.contains("container c1 (MAC 06:06"), "{}", recorded.note);
        assert!(recorded.note.contains("packets are dropped"), "{}", recorded.note);
        assert_eq!(world.binding(FIRST), Some(Current), "its record says that all is well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_verified_and_reported_once() {
    let mut world = World::with_pod().await;
    for _ in 0..100 {
        world.see(event(EventKind::Foreign, FIRST)).await;
    }
    assert_eq!((world.done(), world.reasons().len()), (vec![READ.to_owned()], 1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.see(event(EventKind::Foreign, FIRST)).await;
    assert_eq!((world.done(), world.reasons().len()), (vec![READ.to_owned()], 0), "reports rest for longer");
}

#[tokio::test(start_paused = true)]
async fn a_report_names_the_holder() {
    let mut world = World::with_pod().await;
    world.start("c2", 102).await;
    let holder =
        Holder { link: SECOND, generation: Generation(2), container_tag: container("c2").tag(), mac: Mac([7; 6]) };
    world.see(GuardEvent { holder: Some(holder), dropped: false, ..event(EventKind::Stale, FIRST) }).await;
    let note = &world.recorded()[0].note;
    assert!(note.contains("container c1 (MAC 06"), "{note}");
    assert!(note.contains("its holder is container c2 (MAC 07") && note.contains("not dropped"), "{note}");
}

#[tokio::test(start_paused = true)]
async fn a_violation_on_a_link_that_is_not_known_is_not_reported() {
    let mut world = World::with_pod().await;
    world.see(event(EventKind::Foreign, IfIndex(99))).await;
    assert_eq!((world.done(), world.reasons().len()), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn another_hosts_claim_to_an_address_that_is_bound_here_is_reported() {
    let mut world = World::with_pod().await;
    let holder = Holder { link: FIRST, generation: Generation(1), container_tag: 0, mac: Mac([7; 6]) };
    let conflict = GuardEvent { holder: Some(holder), ..event(EventKind::Conflict, IfIndex(10)) };
    world.see(conflict.clone()).await;
    assert_eq!(world.reasons(), ["AddressConflict"]);
    assert_eq!(world.done(), [""; 0], "it says nothing about any pod");
    world.del("c1").await.unwrap();
    world.see(GuardEvent { address: [10, 0, 0, 9].into(), ..conflict }).await;
    assert_eq!(world.reasons(), [""; 0], "no address of this node");
}

/// The record names `c2`, an older container whose process is not seen here, and the pod's live one is `c1`.
async fn lagging() -> World {
    let world = World::with_pod().await;
    let mut endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    let current = &mut endpoint.status.as_mut().unwrap().current;
    current.container_id = Some(container("c0"));
    current.generation = Generation(5);
    world.fakes.records.put_endpoint(&pod(), Some(endpoint));
    world
}

#[tokio::test(start_paused = true)]
async fn a_live_sandbox_of_a_pod_whose_recorded_one_is_dead_is_rebound() {
    let mut world = lagging().await;
    world.see(event(EventKind::Stale, FIRST)).await;
    assert_eq!(world.done(), [READ, READ, "records.rebind c1", "guard.bind 11 10.0.0.1 6"]);
    assert_eq!(world.holder(), Some(("c1".into(), 6)));
    let mut reasons = world.reasons();
    reasons.sort_unstable();
    assert_eq!(reasons, ["AddressRebound", "StaleContainerFenced"]);
}

#[tokio::test(start_paused = true)]
async fn a_rebind_that_fails_changes_nothing() {
    for step in ["records.read", "records.rebind"] {
        let world = lagging().await;
        world.fakes.journal.fail(step);
        world.see(event(EventKind::Stale, FIRST)).await;
        assert_eq!(world.holder(), Some(("c0".into(), 5)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.see(event(EventKind::Stale, FIRST)).await;
        assert_eq!(world.holder(), Some(("c1".into(), 6)), "the next event does after a failed {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_of_another_pod_is_not_rebound_but_fenced() {
    let mut world = lagging().await;
    world.fakes.records.put_pod(&pod(), "uid-2", address());
    world.see(event(EventKind::Stale, FIRST)).await;
    assert_eq!(world.holder(), Some(("c0".into(), 5)));
    assert_eq!(world.binding(FIRST), Some(Stale));
    assert_eq!(world.fakes.links.routed(FIRST), Some(vec![]));
    assert_eq!(world.reasons(), ["StaleContainerFenced"]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_gone_leaves_nothing_to_rebind_to() {
    let world = World::with_pod().await;
    world.fakes.records.put_endpoint(&pod(), None);
    world.see(event(EventKind::Foreign, FIRST)).await;
    assert_eq!(world.binding(FIRST), Some(Stale), "it lists nothing");
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_pod_moved_on_is_fenced() {
    let world = World::with_pod().await;
    let mut endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    let current = &mut endpoint.status.as_mut().unwrap().current;
    current.container_id = Some(container("c9"));
    current.node = "node2".to_owned();
    world.fakes.records.put_endpoint(&pod(), Some(endpoint));
    world.see(event(EventKind::Stale, FIRST)).await;
    assert_eq!(world.done(), [READ, "guard.mark_stale 11 10.0.0.1", "links.withdraw c1 eth0"]);
    assert_eq!((world.binding(FIRST), world.fakes.links.routed(FIRST)), (Some(Stale), Some(vec![])));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_dismissed_is_fenced_though_it_runs() {
    let world = World::with_pod().await;
    world.fakes.records.end_holder(&pod(), &container("c1"), "TerminatingTimeout").await.unwrap();
    world.done();
    world.see(event(EventKind::Foreign, FIRST)).await;
    assert_eq!(world.done(), [READ, "guard.mark_stale 11 10.0.0.1", "links.withdraw c1 eth0"]);
    assert_eq!(world.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_violation_of_a_holder_that_a_crash_left_out_makes_it_current_again() {
    let mut world = World::with_pod().await;
    // Another container took the address over, and its DEL came: the record names the first one again.
    let spec = spec("c2");
    world.fakes.links.put(&spec, &[]);
    world.node.driver.step(holdfast_core::binding::Event::Reassigned { address: address(), to: 0 }).unwrap();
    assert_eq!(world.binding(FIRST), Some(Stale));
    world.done();
    world.see(event(EventKind::Stale, FIRST)).await;
    assert_eq!(world.done(), [READ, "guard.bind 11 10.0.0.1 1"]);
    assert_eq!(world.binding(FIRST), Some(Current));
    assert_eq!(world.reasons(), ["StaleContainerFenced"]);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_being_removed_is_not_verified() {
    let world = World::with_pod().await;
    world.fakes.journal.hang("links.delete");
    assert!(world.del("c1").await.is_err());
    world.done();
    world.see(event(EventKind::Stale, FIRST)).await;
    assert_eq!(world.done(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_link_inside_a_pod_is_rebound_as_any_other() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    let mut endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    endpoint.status.as_mut().unwrap().current.container_id = Some(container("c0"));
    world.fakes.records.put_endpoint(&pod(), Some(endpoint));
    world.see(event(EventKind::Stale, INSIDE)).await;
    assert_eq!(world.holder(), Some(("c1".into(), 2)));
    assert_eq!(world.fakes.guard.bindings().unwrap()[0].entry.generation, Generation(2));
}
