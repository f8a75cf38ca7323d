//! The reconciler: adoption after a restart, drift between maps, links, records and sandboxes.

use std::{path::Path, time::Duration};

use holdfast_api::endpoint::SpiderEndpoint;
use holdfast_core::{
    guard_mode::GuardMode::{Enforce, Observe},
    id::{Generation, IfIndex, PodName},
    mac::Mac,
};
use holdfast_guard::{
    BindingEntry,
    BindingState::{Current, Stale},
    Link, LinkInfo, LinkRole,
};

use super::world::{FIRST, INSIDE, NETNS, SECOND, World, address, container, eth0, pod, spec};
use crate::node::backend::{Guard, Links, Processes};

async fn reconcile(world: &World) -> Vec<String> {
    world.node.reconciler.reconcile().await.unwrap();
    let lines = world.done().into_iter();
    lines.filter(|line| line != "records.list" && line != "links.prune_proxies").collect()
}

/// The state that an agent leaves which ended right after it had written a record, before its guard.
async fn unguarded() -> World {
    let mut world = World::with_pod().await;
    world.fakes.guard.detach_pod_link(FIRST, &container("c1").host_link(&eth0())).unwrap();
    world.restart();
    world
}

#[tokio::test(start_paused = true)]
async fn a_node_as_it_should_be_is_left_alone() {
    let world = World::with_pod().await;
    assert_eq!(reconcile(&world).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_over_what_the_guard_enforces() {
    let mut world = World::with_pod().await;
    world.start("c2", 102).await;
    world.restart();
    // The older sandbox still runs: it is looked at, and nothing leads to it.
    assert_eq!(reconcile(&world).await, ["guard.attach 11", "records.read default/web-0", "links.withdraw c1 eth0"]);
    assert_eq!((world.binding(FIRST), world.binding(SECOND)), (Some(Stale), Some(Current)));
    assert_eq!(world.fakes.links.routed(SECOND), Some(vec![address()]));
}

#[tokio::test(start_paused = true)]
async fn a_link_without_a_guard_is_adopted() {
    let world = unguarded().await;
    assert_eq!(reconcile(&world).await, ["guard.attach 11", "guard.bind 11 10.0.0.1 1"]);
    assert_eq!(world.binding(FIRST), Some(Current));
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_fails_keeps_no_other_link_from_being_compared() {
    for step in ["guard.attach 11", "guard.bind 11"] {
        let mut world = unguarded().await;
        let other = PodName::new("default", "other");
        world.fakes.records.put_pod(&other, "uid-o", [10, 0, 0, 2].into());
        world.fakes.links.put(&holdfast_net::LinkSpec { pod: other, ..spec("c5") }, &[]);
        world.fakes.journal.fail(step);
        let done = reconcile(&world).await;
        assert!(done.contains(&"guard.attach 12".to_owned()), "{done:?}");
        world.restart();
        reconcile(&world).await;
        assert_eq!(world.binding(FIRST), Some(Current), "the next one does after a failed {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_addresses_that_the_record_lists_and_the_link_carries_are_adopted() {
    let world = unguarded().await;
    let host = world.fakes.links.link_by_index(FIRST).await.unwrap().unwrap();
    world.fakes.links.readvertise(&host, &[[10, 0, 0, 7].into()]).await.unwrap();
    world.done();
    let done = reconcile(&world).await;
    assert!(!done.iter().any(|line| line.contains("10.0.0.7")), "{done:?}");
    assert_eq!(world.binding(FIRST), Some(Current));
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_is_not_adopted() {
    let world = World::with_pod().await;
    world.fakes.guard.detach_pod_link(FIRST, &container("c1").host_link(&eth0())).unwrap();
    world.fakes.processes.end(101);
    world.done();
    let done = reconcile(&world).await;
    assert!(!done.iter().any(|line| line.starts_with("guard.bind")), "{done:?}");
    assert_eq!(world.holder(), None, "its end was not seen before");
}

#[tokio::test(start_paused = true)]
async fn a_map_that_differs_from_what_was_decided_is_written_again() {
    let world = World::with_pod().await;
    world.fakes.guard.mark_stale(FIRST, address()).unwrap();
    world.done();
    assert_eq!(reconcile(&world).await, ["guard.bind 11 10.0.0.1 1"]);
    world.start("c2", 102).await;
    let owner = container("c1").tag();
    let entry = BindingEntry {
        link: FIRST,
        address: address(),
        generation: Generation(1),
        container_tag: owner,
        mac: Mac([0; 6]),
    };
    world.fakes.guard.put_binding(entry, Current);
    let done = reconcile(&world).await;
    assert_eq!(done[0], "guard.mark_stale 11 10.0.0.1");
    assert_eq!((world.binding(FIRST), world.binding(SECOND)), (Some(Stale), Some(Current)));
}

#[tokio::test(start_paused = true)]
async fn a_guarded_link_that_is_gone_is_detached() {
    let world = World::with_pod().await;
    world.fakes.links.vanish(FIRST);
    assert_eq!(reconcile(&world).await[0], "guard.detach 11");
    assert_eq!((world.binding(FIRST), world.fakes.guard.link(FIRST)), (None, None));
}

#[tokio::test(start_paused = true)]
async fn the_mode_follows_the_pods_annotation() {
    let world = World::with_pod().await;
    world.fakes.records.annotate(&pod(), Observe);
    assert_eq!(reconcile(&world).await, ["guard.set_mode 11 Observe"]);
    world.fakes.records.annotate(&pod(), Enforce);
    assert_eq!(reconcile(&world).await, ["guard.set_mode 11 Enforce"]);
}

#[tokio::test(start_paused = true)]
async fn a_live_container_that_no_record_names_gets_its_record_again() {
    let mut world = World::with_pod().await;
    let mut endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    endpoint.status.as_mut().unwrap().current.container_id = None;
    world.fakes.records.put_endpoint(&pod(), Some(endpoint));
    reconcile(&world).await;
    assert_eq!(world.holder(), Some(("c1".into(), 2)));
    assert_eq!(world.reasons(), ["AddressRebound"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_container_that_no_record_names_loses_its_link() {
    let world = World::with_pod().await;
    world.start("c2", 102).await;
    world.fakes.processes.end(101);
    let done = reconcile(&world).await;
    assert_eq!(done[0], "guard.forget_sandbox 101");
    world.settle().await;
    assert_eq!((world.fakes.links.routed(FIRST), world.fakes.guard.link(FIRST)), (None, None));
    assert_eq!((world.binding(SECOND), world.holder()), (Some(Current), Some(("c2".into(), 2))));
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_process_cannot_be_found_is_not_taken_for_dead() {
    let world = World::new();
    world.add("c1").await.unwrap();
    world.settle().await;
    world.fakes.records.put_endpoint(&pod(), None);
    reconcile(&world).await;
    assert!(world.fakes.links.routed(FIRST).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_was_led_away_from_its_holder_is_led_back() {
    let world = World::with_pod().await;
    let name = container("c1").host_link(&eth0());
    world.fakes.links.withdraw(&name).await.unwrap();
    world.fakes.guard.set_mode(FIRST, Enforce).unwrap();
    world.done();
    world.node.driver.verify_link(FIRST).await;
    assert_eq!(world.done(), ["records.read default/web-0", "links.readvertise c1 eth0"]);
    assert_eq!(world.fakes.links.routed(FIRST), Some(vec![address()]));
}

#[tokio::test(start_paused = true)]
async fn a_link_inside_a_pod_is_known_again_by_its_record() {
    let mut world = World::new();
    world.start_delegated("c1", 101).await;
    world.restart();
    assert_eq!(reconcile(&world).await, ["guard.watch_sandbox 101"]);
    assert_eq!(world.binding(INSIDE), Some(Current));
    world.fakes.processes.end(101);
    reconcile(&world).await;
    assert_eq!(world.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_link_inside_a_pod_is_known_again_by_its_process() {
    let mut world = World::new();
    world.start_delegated("c1", 101).await;
    let mut endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    endpoint.status.as_mut().unwrap().current.container_id = Some(container("c0"));
    world.fakes.records.put_endpoint(&pod(), Some(endpoint));
    world.restart();
    reconcile(&world).await;
    assert_eq!(world.holder(), Some(("c1".into(), 2)), "its pod's only sandbox that runs");
}

#[tokio::test(start_paused = true)]
async fn a_link_inside_a_pod_that_nothing_names_is_fenced() {
    let mut world = World::new();
    world.start_delegated("c1", 101).await;
    world.fakes.records.put_endpoint(&pod(), None);
    world.fakes.guard.forget_sandbox(101).unwrap();
    world.restart();
    assert_eq!(reconcile(&world).await, ["guard.mark_stale 2147483648 10.0.0.1"]);
}

#[tokio::test(start_paused = true)]
async fn the_guard_of_a_dead_sandbox_inside_whose_namespace_it_sits_is_detached() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    world.fakes.records.put_endpoint(&pod(), None);
    world.fakes.processes.end(101);
    reconcile(&world).await;
    assert_eq!(world.fakes.guard.link(INSIDE), None);
}

#[tokio::test(start_paused = true)]
async fn an_interface_of_another_plugin_without_a_guard_gets_one() {
    let mut world = World::new();
    world.start_delegated("c1", 101).await;
    world.fakes.guard.detach_pod_link(INSIDE, &eth0()).unwrap();
    world.restart();
    let done = reconcile(&world).await;
    for step in ["guard.attach_inside eth0", "guard.bind 2147483649 10.0.0.1 1", "guard.attach_shared_uplink 10"] {
        assert!(done.iter().any(|line| line == step), "{step} in {done:?}");
    }
    assert_eq!(world.binding(IfIndex(INSIDE.0 + 1)), Some(Current));
    // An interface that is not there (yet) is looked for again.
    world.fakes.guard.detach_pod_link(IfIndex(INSIDE.0 + 1), &eth0()).unwrap();
    world.fakes.namespaces.remove(&world.fakes.processes.netns(101), &eth0());
    world.fakes.namespaces.remove(Path::new(NETNS), &eth0());
    world.restart();
    assert_eq!(reconcile(&world).await, ["guard.watch_sandbox 101"]);
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_sandbox_here_is_left_alone() {
    let world = World::with_pod().await;
    let other = PodName::new("default", "other");
    let mut endpoint = SpiderEndpoint::for_pod(&other);
    let current = &mut endpoint.status.get_or_insert_default().current;
    current.container_id = Some(container("c8"));
    current.node = crate::node::fakes::NODE_NAME.to_owned();
    world.fakes.records.put_endpoint(&other, Some(endpoint));
    assert_eq!(reconcile(&world).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn it_runs_every_minute_and_when_asked_and_again_soon_after_a_failure() {
    let world = World::with_pod().await;
    world.fakes.journal.fail("records.list");
    let running = tokio::spawn(world.node.reconciler.clone().run());
    let lists = async |seconds: u64| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        world.done().iter().filter(|line| line.starts_with("records.list")).count()
    };
    assert_eq!(lists(1).await, 1);
    assert_eq!(lists(2).await, 1, "two seconds after a failure");
    assert_eq!(lists(58).await, 0);
    assert_eq!(lists(4).await, 1);
    world.node.reconciler.request();
    assert_eq!(lists(1).await, 1);
    running.abort();
}

/// Whether what happens asks for a reconciliation.
async fn asks(world: &World, what: impl AsyncFnOnce(&World)) -> bool {
    let running = tokio::spawn(world.node.reconciler.clone().run());
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.done();
    what(world).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.abort();
    world.done().contains(&"records.list".to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_leaves_is_looked_at_if_anything_of_it_is_here() {
    let world = World::with_pod().await;
    let endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    let left = async |world: &World| world.node.reconciler.endpoint_left(&endpoint).await;
    assert!(asks(&world, left).await);
    let other = SpiderEndpoint::for_pod(&PodName::new("default", "other"));
    let left = async |world: &World| world.node.reconciler.endpoint_left(&other).await;
    assert!(!asks(&world, left).await);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_names_a_container_without_a_guard_is_looked_at() {
    let world = World::with_pod().await;
    let endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    let written = async |world: &World| world.node.reconciler.endpoint_written(endpoint.clone());
    assert!(!asks(&world, written).await, "the guard knows this one");
    let mut endpoint = world.fakes.records.endpoint(&pod()).unwrap();
    endpoint.status.as_mut().unwrap().current.container_id = Some(container("c2"));
    let written = async |world: &World| world.node.reconciler.endpoint_written(endpoint.clone());
    assert!(asks(&world, written).await);
    let written = async |world: &World| {
        world.node.reconciler.endpoint_written(endpoint.clone());
        world.add("c2").await.unwrap();
    };
    assert!(!asks(&world, written).await, "its ADD came to its end in time");
}

#[tokio::test(start_paused = true)]
async fn a_link_of_an_earlier_agent_with_a_number_given_again_is_another_link() {
    let mut world = World::new();
    let info = LinkInfo { container_tag: container("c0").tag(), ..LinkInfo::default() };
    let name = container("c0").host_link(&eth0());
    world.fakes.guard.put_link(Link { link: FIRST, name, role: LinkRole::Pod, inside: false, shared: false, info });
    let old = BindingEntry {
        link: FIRST,
        address: [10, 0, 0, 9].into(),
        generation: Generation(1),
        container_tag: container("c0").tag(),
        mac: Mac([0; 6]),
    };
    world.fakes.guard.put_binding(old, Current);
    world.restart();
    world.start("c1", 101).await;
    reconcile(&world).await;
    assert_eq!(world.binding(FIRST), Some(Current));
    assert_eq!(world.fakes.guard.link(FIRST).unwrap().info.container_tag, container("c1").tag());
}
