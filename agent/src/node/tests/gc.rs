//! GC: what is valid stays, and of the rest what lives stays, too.

use holdfast_cni::{CniError, Plugin, code};
use holdfast_guard::BindingState::Current;
use serde_json::json;
use tokio::time::Instant;

use super::world::{DEADLINE, FIRST, INSIDE, SECOND, World, invocation, pod};

async fn gc(world: &World, plugin: Plugin, valid: &[&str]) -> Result<(), CniError> {
    let mut request = invocation("", "", plugin);
    let valid: Vec<_> = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
    request.config["cni.dev/valid-attachments"] = json!(valid);
    let outcome = world.node.attachments.gc(&request, Instant::now() + DEADLINE).await;
    world.settle().await;
    outcome
}

#[tokio::test(start_paused = true)]
async fn what_is_valid_or_runs_or_holds_its_pods_record_stays() {
    let world = World::with_pod().await;
    gc(&world, Plugin::Holdfast, &[]).await.unwrap();
    assert_eq!(world.done(), [""; 0], "its process runs");
    world.fakes.processes.end(101);
    gc(&world, Plugin::Holdfast, &["c1"]).await.unwrap();
    assert_eq!(world.done(), [""; 0], "it is valid");
    gc(&world, Plugin::Holdfast, &[]).await.unwrap();
    assert_eq!(world.done(), [""; 0], "the record names it, and its pod is there");
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_of_a_pod_that_has_a_newer_one_is_removed() {
    let world = World::with_pod().await;
    world.start("c2", 102).await;
    world.fakes.processes.end(101);
    gc(&world, Plugin::Holdfast, &["c2"]).await.unwrap();
    assert_eq!((world.fakes.links.routed(FIRST), world.fakes.guard.link(FIRST)), (None, None));
    assert_eq!(world.binding(SECOND), Some(Current));
    assert_eq!(world.holder(), Some(("c2".into(), 2)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_of_a_pod_that_is_gone_loses_its_record() {
    let world = World::with_pod().await;
    world.fakes.processes.end(101);
    world.fakes.records.remove_pod(&pod());
    gc(&world, Plugin::Holdfast, &[]).await.unwrap();
    assert!(world.done().contains(&"records.unbind c1 eth0 RuntimeGc".to_owned()));
    assert_eq!((world.fakes.links.routed(FIRST), world.holder()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn an_attachment_that_cannot_be_removed_keeps_no_other_from_it() {
    let world = World::with_pod().await;
    world.start("c2", 102).await;
    world.fakes.processes.end(101);
    world.fakes.processes.end(102);
    world.fakes.records.remove_pod(&pod());
    world.fakes.journal.fail("links.delete c1");
    assert_eq!(gc(&world, Plugin::Holdfast, &[]).await.unwrap_err().code, code::TRY_AGAIN);
    assert!(world.fakes.links.routed(FIRST).is_some());
    assert_eq!((world.fakes.links.routed(SECOND), world.holder()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn each_plugin_collects_its_own_attachments() {
    let world = World::new();
    world.start_delegated("c1", 101).await;
    world.fakes.processes.end(101);
    world.fakes.records.remove_pod(&pod());
    gc(&world, Plugin::Holdfast, &[]).await.unwrap();
    assert!(world.fakes.guard.link(INSIDE).is_some(), "it is not this plugin's");
    gc(&world, Plugin::Spiderpool, &[]).await.unwrap();
    assert_eq!((world.fakes.guard.link(INSIDE), world.holder()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn gc_needs_the_runtimes_list_and_ends_at_its_deadline() {
    let world = World::with_pod().await;
    let request = invocation("", "", Plugin::Holdfast);
    let deadline = Instant::now() + DEADLINE;
    assert_eq!(world.node.attachments.gc(&request, deadline).await.unwrap_err().code, code::INVALID_CONFIG);
    world.fakes.processes.end(101);
    world.fakes.records.remove_pod(&pod());
    world.fakes.journal.hang("links.delete");
    assert_eq!(gc(&world, Plugin::Holdfast, &[]).await.unwrap_err().code, code::TRY_AGAIN);
}
