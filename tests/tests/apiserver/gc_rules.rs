//! The rules for StatefulSets and other pods, and the triggers of collection.

use std::time::Duration;

use anyhow::Result;
use holdfast_api::endpoint::HolderState::{self, Bound, Reserved};
use holdfast_controller::Settings;
use holdfast_core::collect::{OnTimeout, Policy};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Node};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::world::{Running, SOON, World, settings, stays, wait};

/// A set of three with its pods bound to the addresses 1 to 3, and a leader.
async fn set_of_three(name: &str, net: u8, settings: Settings) -> Result<(World, StatefulSet, Running)> {
    let world = World::new(name, net).await?;
    world.make_node(&world.name).await?;
    let set = world.make_set("web", 3).await?;
    for ordinal in 0..3 {
        let pod = world.make_pod(&format!("web-{ordinal}"), Some(&set), &world.name).await?;
        world.bind(&pod, world.address(ordinal + 1), Some(&set)).await?;
    }
    let leader = world.lead(settings);
    Ok((world, set, leader))
}

async fn becomes(world: &World, pod: &str, wanted: Option<HolderState>) -> Result<Duration> {
    let look = || async {
        let state = world.endpoint(pod).await?;
        Ok((state == wanted, state))
    };
    wait(&format!("{pod} to be {wanted:?}"), SOON, look).await
}

async fn holds(world: &World, count: usize) -> Result<Duration> {
    let look = || async {
        let held = world.held().await?.len();
        Ok((held == count, held))
    };
    wait(&format!("{count} addresses to be held"), SOON, look).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_deletion_keeps_a_sticky_address_and_frees_others() -> Result<()> {
    let (world, _, leader) = set_of_three("forced", 20, settings()).await?;
    let plain = world.make_pod("plain", None, &world.name).await?;
    world.bind(&plain, world.address(9), None).await?;
    world.kill_pod("web-1").await?;
    world.kill_pod("plain").await?;
    becomes(&world, "web-1", Some(Reserved)).await?;
    becomes(&world, "plain", None).await?;
    holds(&world, 3).await?;
    assert_eq!(world.endpoint("web-0").await?, Some(Bound));
    let record = world.store.endpoint(&world.pod_name("web-1")).await?.expect("it is reserved");
    let record = record.record().into_owned();
    assert_eq!((record.current.container_id, record.history[0].reason.as_str()), (None, "PodGone"));
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_down_frees_what_is_outside_once_its_pods_are_gone() -> Result<()> {
    let (world, _, leader) = set_of_three("scaled", 21, settings()).await?;
    world.scale("web", 1).await?;
    stays("pods that run keep theirs", Duration::from_secs(1), || async { Ok(world.held().await?.len() == 3) }).await?;
    for pod in ["web-2", "web-1"] {
        world.kill_pod(pod).await?;
        becomes(&world, pod, None).await?;
    }
    holds(&world, 1).await?;
    // Back to three within the same breath: new pods, whatever addresses they get.
    world.scale("web", 3).await?;
    world.kill_pod("web-0").await?;
    becomes(&world, "web-0", Some(Reserved)).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_ordinals_wait_for_their_set_to_grow() -> Result<()> {
    let (world, _, leader) = set_of_three("retain", 22, settings()).await?;
    for (pod, time) in [("web-1", "1h"), ("web-2", "3s")] {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"ipam.spidernet.io/retain": time}}}));
        world.endpoints().patch(pod, &PatchParams::default(), &patch).await?;
    }
    world.scale("web", 1).await?;
    world.kill_pod("web-1").await?;
    world.kill_pod("web-2").await?;
    becomes(&world, "web-1", Some(Reserved)).await?;
    becomes(&world, "web-2", Some(Reserved)).await?;
    becomes(&world, "web-2", None).await?;
    stays("the hour is not over", Duration::from_secs(2), || async {
        Ok(world.endpoint("web-1").await? == Some(Reserved))
    })
    .await?;
    leader.stop().await;
    Ok(())
}

/// A record that another IPAM made says nothing of any holder before.
#[tokio::test(flavor = "multi_thread")]
async fn retention_ends_without_a_history_too() -> Result<()> {
    let (world, _, leader) = set_of_three("imported", 32, settings()).await?;
    let patch = Patch::Merge(json!({
        "metadata": {"annotations": {"ipam.spidernet.io/retain": "3s"}}, "status": {"current": {"containerID": null}}
    }));
    world.endpoints().patch("web-2", &PatchParams::default(), &patch).await?;
    world.scale("web", 1).await?;
    world.kill_pod("web-2").await?;
    becomes(&world, "web-2", Some(Reserved)).await?;
    becomes(&world, "web-2", None).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_set_frees_what_no_pod_uses_and_a_new_one_owns_nothing() -> Result<()> {
    let (world, _, leader) = set_of_three("gone", 23, settings()).await?;
    world.kill_pod("web-2").await?;
    becomes(&world, "web-2", Some(Reserved)).await?;
    world.sets().delete("web", &DeleteParams::orphan()).await?;
    becomes(&world, "web-2", None).await?;
    // An endpoint goes before its claim is marked.
    holds(&world, 2).await?;
    stays("orphans keep theirs", Duration::from_secs(1), || async { Ok(world.held().await?.len() == 2) }).await?;
    // A finalizer is left for a garbage collector that does not run here.
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.sets().patch("web", &PatchParams::default(), &patch).await.ok();
    let look = || async {
        let left = world.sets().get_opt("web").await?.is_some();
        Ok((!left, left))
    };
    wait("the set to be gone", SOON, look).await?;
    world.make_set("web", 3).await?;
    world.kill_pod("web-0").await?;
    becomes(&world, "web-0", None).await?;
    holds(&world, 1).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_terminates_too_long_loses_its_container() -> Result<()> {
    let (world, _, leader) = set_of_three("stuck", 24, settings()).await?;
    let plain = world.make_pod("plain", None, &world.name).await?;
    world.bind(&plain, world.address(9), None).await?;
    // No kubelet confirms the end of the pods.
    let grace = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
    world.pods().delete("web-0", &grace).await?;
    world.pods().delete("plain", &grace).await?;
    becomes(&world, "web-0", Some(Reserved)).await?;
    becomes(&world, "plain", None).await?;
    assert_eq!(world.endpoint("web-1").await?, Some(Bound));
    holds(&world, 3).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_may_have_it_released_or_left_alone() -> Result<()> {
    let policy = Policy { on_timeout: OnTimeout::Release, stateless_on_ready_node: false, ..settings().policy };
    let (world, _, leader) = set_of_three("policy", 25, Settings { policy, ..settings() }).await?;
    let plain = world.make_pod("plain", None, &world.name).await?;
    world.bind(&plain, world.address(9), None).await?;
    let grace = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
    world.pods().delete("plain", &grace).await?;
    world.pods().delete("web-0", &grace).await?;
    becomes(&world, "web-0", None).await?;
    stays("left alone", Duration::from_secs(2), || async { Ok(world.endpoint("plain").await? == Some(Bound)) }).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_holds_no_addresses() -> Result<()> {
    let (world, _, leader) = set_of_three("node", 26, settings()).await?;
    world.make_node("node-2").await?;
    let plain = world.make_pod("plain", None, &world.name).await?;
    world.bind(&plain, world.address(9), None).await?;
    let elsewhere = world.make_pod("elsewhere", None, "node-2").await?;
    world.bind(&elsewhere, world.address(10), None).await?;
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.delete(&world.name, &DeleteParams::default()).await?;
    for pod in ["web-0", "web-1", "web-2"] {
        becomes(&world, pod, Some(Reserved)).await?;
    }
    becomes(&world, "plain", None).await?;
    assert_eq!(world.endpoint("elsewhere").await?, Some(Bound));
    holds(&world, 4).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stickiness_a_sets_pods_are_like_any() -> Result<()> {
    let (world, _, leader) = set_of_three("off", 27, Settings { stateful_set: false, ..settings() }).await?;
    world.kill_pod("web-0").await?;
    becomes(&world, "web-0", None).await?;
    holds(&world, 2).await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_pod_gives_its_address_back_once_its_sandbox_is_gone() -> Result<()> {
    let world = World::new("finished", 28).await?;
    world.make_node("finished-n").await?;
    let leader = world.lead(settings());
    let (job, long) =
        (world.make_brief_pod("job", "finished-n").await?, world.make_pod("long", None, "finished-n").await?);
    world.bind(&job, world.address(1), None).await?;
    world.bind(&long, world.address(2), None).await?;
    // No agent unbinds them: kubelets have reported this phase of pods whose containers still ran.
    let done = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    for name in ["job", "long"] {
        world.pods().patch_status(name, &PatchParams::default(), &done).await?;
    }
    becomes(&world, "job", None).await?;
    assert_eq!(world.endpoint("long").await?, Some(Bound), "its grace period is not over");
    // As an agent that saw its sandbox end.
    world.unbind("long").await?;
    becomes(&world, "long", None).await?;
    holds(&world, 0).await?;
    leader.stop().await;
    Ok(())
}

/// A mismatch proves no leak: a second address that the pod's status does not name, and a wrong node in a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_address_and_a_wrong_node_are_no_leak() -> Result<()> {
    let world = World::new("dual", 33).await?;
    world.make_node(&world.name).await?;
    let leader = world.lead(settings());
    let pod = world.make_pod("two", None, &world.name).await?;
    world.bind(&pod, world.address(1), None).await?;
    world.store.acquire(world.address(2), &world.name, &world.pod_name("two")).await?;
    let ip = |interface: &str, number: u16| json!({"interface": interface, "ipv4": format!("{}/16", world.address(number)), "ipv4Pool": world.name});
    let patch = Patch::Merge(json!({"status": {"current": {
        "node": "another-node", "ips": [ip("eth0", 1), ip("net1", 2)]
    }}}));
    world.endpoints().patch("two", &PatchParams::default(), &patch).await?;
    let address = world.address(1).to_string();
    let patch = Patch::Merge(json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}}));
    world.pods().patch_status("two", &PatchParams::default(), &patch).await?;
    world.looked(9).await?;
    assert_eq!(world.endpoint("two").await?, Some(Bound));
    holds(&world, 2).await?;
    leader.stop().await;
    Ok(())
}

/// The set is there, with its deletion's time, until its pods are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_deleted_in_the_foreground_reserves_nothing() -> Result<()> {
    let (world, _, leader) = set_of_three("foreground", 34, settings()).await?;
    world.sets().delete("web", &DeleteParams::foreground()).await?;
    let set = world.sets().get("web").await?;
    assert!(set.metadata.deletion_timestamp.is_some(), "it should wait for its pods");
    world.kill_pod("web-2").await?;
    becomes(&world, "web-2", None).await?;
    world.unbind("web-1").await?;
    world.looked(9).await?;
    assert_eq!(world.endpoint("web-1").await?, Some(Reserved), "its pod is still there");
    assert_eq!(world.endpoint("web-0").await?, Some(Bound));
    for pod in ["web-0", "web-1"] {
        world.kill_pod(pod).await?;
    }
    holds(&world, 0).await?;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.sets().patch("web", &PatchParams::default(), &patch).await?;
    leader.stop().await;
    Ok(())
}

/// The node's kubelet does not report any more, so that the end of a pod is never confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_terminates_on_a_lost_node_loses_its_container() -> Result<()> {
    let policy = Policy { stateless_on_not_ready_node: false, ..settings().policy };
    for (name, net, settings, kept) in
        [("lost", 35, settings(), false), ("lost-kept", 36, Settings { policy, ..settings() }, true)]
    {
        let (world, _, leader) = set_of_three(name, net, settings).await?;
        let plain = world.make_pod("plain", None, &world.name).await?;
        world.bind(&plain, world.address(9), None).await?;
        world.set_ready(&world.name, "Unknown").await?;
        let grace = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        world.pods().delete("plain", &grace).await?;
        world.pods().delete("web-0", &grace).await?;
        becomes(&world, "web-0", Some(Reserved)).await?;
        if kept {
            world.looked(10).await?;
            assert_eq!(world.endpoint("plain").await?, Some(Bound));
        } else {
            becomes(&world, "plain", None).await?;
        }
        assert_eq!(world.endpoint("web-1").await?, Some(Bound));
        leader.stop().await;
    }
    Ok(())
}

/// From the moment of its deletion a namespace takes no new objects, events among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_frees_all_its_addresses() -> Result<()> {
    let (world, _, first) = set_of_three("deleted-ns", 37, settings()).await?;
    first.stop().await;
    let leader = world.lead_through(&world.store, settings());
    let going = world.going();
    going.delete().await?;
    // The set goes first: a StatefulSet's pods are still there.
    world.sets().delete("web", &DeleteParams::background()).await?;
    world.kill_pod("web-1").await?;
    becomes(&world, "web-1", None).await?;
    going.end().await?;
    holds(&world, 0).await?;
    let left = || async {
        let left = world.claims().await?.len();
        Ok((left == 0, left))
    };
    wait("all claims to go", SOON, left).await?;
    leader.stop().await;
    Ok(())
}

/// A namespace is deleted: its objects go in any order, the endpoint before the pod too.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_deleted_by_others_frees_its_claim() -> Result<()> {
    let (world, _, leader) = set_of_three("namespace", 29, settings()).await?;
    for pod in ["web-0", "web-1", "web-2"] {
        world.endpoints().delete(pod, &DeleteParams::default()).await?;
        world.kill_pod(pod).await?;
    }
    world.sets().delete("web", &DeleteParams::background()).await?;
    holds(&world, 0).await?;
    leader.stop().await;
    Ok(())
}

/// A DEL that came in time leaves a reserved endpoint, which the collector leaves alone while its set owns it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reserved_address_waits() -> Result<()> {
    let (world, set, leader) = set_of_three("waits", 30, settings()).await?;
    world.unbind("web-1").await?;
    world.kill_pod("web-1").await?;
    stays("reserved", Duration::from_secs(3), || async { Ok(world.endpoint("web-1").await? == Some(Reserved)) })
        .await?;
    let again = world.make_pod("web-1", Some(&set), &world.name).await?;
    world.bind(&again, world.address(2), Some(&set)).await?;
    stays("bound", Duration::from_secs(1), || async { Ok(world.endpoint("web-1").await? == Some(Bound)) }).await?;
    holds(&world, 3).await?;
    leader.stop().await;
    Ok(())
}
