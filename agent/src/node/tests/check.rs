//! CHECK and STATUS.

use holdfast_cni::{CniError, Plugin, code};
use holdfast_guard::BindingState::Current;
use tokio::time::Instant;

use super::world::{DEADLINE, FIRST, World, address, container, invocation};
use crate::node::backend::{Guard, Links};

async fn check(world: &World, id: &str, plugin: Plugin) -> Result<(), CniError> {
    world.node.attachments.check(&invocation(id, "eth0", plugin), Instant::now() + DEADLINE).await
}

#[tokio::test(start_paused = true)]
async fn an_interface_as_it_was_made_passes() {
    let world = World::with_pod().await;
    check(&world, "c1", Plugin::Holdfast).await.unwrap();
    assert_eq!(world.done(), ["links.check c1 eth0"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_another_one_replaced_is_stale() {
    let world = World::with_pod().await;
    world.start("c2", 102).await;
    let error = check(&world, "c1", Plugin::Holdfast).await.unwrap_err();
    assert_eq!(error.code, code::STALE);
    assert!(error.msg.contains("container c1"), "{}", error.msg);
}

#[tokio::test(start_paused = true)]
async fn links_routes_and_bindings_that_are_missing_are_named() {
    let world = World::with_pod().await;
    world.fakes.links.withdraw(&container("c1").host_link(&"eth0".parse().unwrap())).await.unwrap();
    let error = check(&world, "c1", Plugin::Holdfast).await.unwrap_err();
    assert!(error.msg.contains("no route to 10.0.0.1"), "{}", error.msg);

    let world = World::with_pod().await;
    world.fakes.guard.mark_stale(FIRST, address()).unwrap();
    let error = check(&world, "c1", Plugin::Holdfast).await.unwrap_err();
    assert_eq!(error.code, code::INTERNAL);
    assert!(error.msg.contains("10.0.0.1") && error.msg.contains("eth0"), "{}", error.msg);
    // As the message says.
    world.node.reconciler.reconcile().await.unwrap();
    assert_eq!(world.binding(FIRST), Some(Current));
    check(&world, "c1", Plugin::Holdfast).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delegates_check_is_of_the_record() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    check(&world, "c1", Plugin::Spiderpool).await.unwrap();
    assert_eq!(check(&world, "c2", Plugin::Spiderpool).await.unwrap_err().code, code::STALE);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_ends_at_its_deadline() {
    let world = World::with_pod().await;
    world.fakes.journal.hang("links.check");
    assert_eq!(check(&world, "c1", Plugin::Holdfast).await.unwrap_err().code, code::TRY_AGAIN);
}

#[tokio::test(start_paused = true)]
async fn status_asks_the_api_server() {
    let world = World::new();
    let request = invocation("", "", Plugin::Holdfast);
    let status = async || world.node.attachments.status(&request, Instant::now() + DEADLINE).await;
    status().await.unwrap();
    world.fakes.journal.fail("records.ping");
    assert_eq!(status().await.unwrap_err().code, code::NOT_AVAILABLE);
    world.fakes.journal.hang("records.ping");
    assert!(status().await.unwrap_err().msg.contains("does not answer"));
}
