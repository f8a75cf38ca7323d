//! Pools: conditions, deletion, and what another IPAM left.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_api::claim::{IPClaim, name_of};
use holdfast_api::endpoint::HolderState::Bound;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::world::{SOON, World, settings, stays, wait};

async fn condition(world: &World, pool: &str, kind: &str, wanted: &str) -> Result<String> {
    let read = || async {
        let conditions = world.pools().get(pool).await?.status.unwrap_or_default().conditions;
        anyhow::Ok(conditions.into_iter().find(|condition| condition.type_ == kind))
    };
    let look = || async {
        let found = read().await?;
        Ok((found.as_ref().is_some_and(|found| found.status == wanted), found))
    };
    wait(&format!("{kind} of {pool} to be {wanted}"), SOON, look).await?;
    Ok(read().await?.context("it was there a moment ago")?.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_say_what_is_wrong_with_them() -> Result<()> {
    let world = World::new("said", 50).await?;
    let leader = world.lead(settings());
    assert!(condition(&world, &world.name, "Ready", "True").await?.contains("gives out"));
    let (inside, wrong) = (format!("{}-inside", world.name), format!("{}-wrong", world.name));
    world.make_pool(&inside, json!({"subnet": "10.50.0.0/16", "ips": ["10.50.0.7"]})).await?;
    assert!(condition(&world, &world.name, "Overlapping", "True").await?.contains(&inside));
    assert!(condition(&world, &inside, "Overlapping", "True").await?.contains(&world.name));
    world.make_pool(&wrong, json!({"subnet": "10.50.0.0/16", "ips": ["10.51.0.1"]})).await?;
    assert!(condition(&world, &wrong, "Ready", "False").await?.contains("10.51.0.1"));
    let patch = Patch::Merge(json!({"spec": {"ips": ["10.50.0.8"]}}));
    world.pools().patch(&world.name, &PatchParams::default(), &patch).await?;
    condition(&world, &world.name, "Overlapping", "False").await?;
    world.make_node("said-n").await?;
    let pod = world.make_pod("a", None, "said-n").await?;
    world.bind(&pod, world.address(8), None).await?;
    condition(&world, &world.name, "Exhausted", "True").await?;
    // The pool shrinks under its holder, which keeps its address and is named.
    let patch = Patch::Merge(json!({"spec": {"ips": ["10.50.0.9"]}}));
    world.pools().patch(&world.name, &PatchParams::default(), &patch).await?;
    assert!(condition(&world, &world.name, "HeldOutside", "True").await?.contains("10.50.0.8"));
    let status = world.pool().await?.status.unwrap_or_default();
    assert_eq!((status.total_ip_count, status.allocated_ip_count), (Some(1), Some(0)));
    assert_eq!(world.endpoint("a").await?, Some(Bound));
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_in_use_is_held_against_deletion() -> Result<()> {
    let world = World::new("finalizer", 51).await?;
    let leader = world.lead(settings());
    world.make_node("finalizer-n").await?;
    let pod = world.make_pod("a", None, "finalizer-n").await?;
    world.bind(&pod, world.address(1), None).await?;
    let look = || async {
        let finalizers = world.pool().await?.finalizers().to_vec();
        Ok((finalizers == ["spiderpool.spidernet.io"], finalizers))
    };
    wait("the finalizer", SOON, look).await?;
    world.pools().delete(&world.name, &DeleteParams::default()).await?;
    stays("the pool", Duration::from_secs(2), || async { Ok(world.pools().get_opt(&world.name).await?.is_some()) })
        .await?;
    world.kill_pod("a").await?;
    let gone = || async {
        let left = world.pools().get_opt(&world.name).await?.is_some();
        Ok((!left, left))
    };
    wait("the pool to go", SOON, gone).await?;
    assert!(world.claims().await?.is_empty());
    leader.stop().await;
    Ok(())
}

/// Endpoints and a pool's records as Spiderpool leaves them: no claims, no UID of an owner, no generation.
#[tokio::test(flavor = "multi_thread")]
async fn an_existing_installation_is_taken_over() -> Result<()> {
    let world = World::new("import", 52).await?;
    world.make_node("import-n").await?;
    let set = world.make_set("web", 2).await?;
    let pod = world.make_pod("web-0", Some(&set), "import-n").await?;
    let lone = world.make_pod("lone", None, "import-n").await?;
    let record = |pod: &str, uid: &Option<String>| json!({"interface": "eth0", "pod": format!("{}/{pod}", world.name), "podUid": uid});
    let records = json!({
        "10.52.0.1": record("web-0", &pod.uid()), "10.52.0.2": record("web-1", &Some("gone".into())),
        "10.52.0.3": record("lone", &lone.uid()), "10.52.0.4": record("nobody", &Some("gone".into())),
    });
    let status = json!({"status": {"allocatedIPs": records.to_string(), "allocatedIPCount": 4}});
    world.pools().patch_status(&world.name, &PatchParams::default(), &Patch::Merge(status)).await?;
    for (name, uid, address) in [("web-0", pod.uid(), "10.52.0.1"), ("web-1", Some("gone".to_owned()), "10.52.0.2")] {
        let endpoint = serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint", "metadata": {"name": name},
            "status": {"current": {"uid": uid, "node": "import-n", "ips": [{
                "interface": "eth0", "ipv4": format!("{address}/16"), "ipv4Pool": world.name, "vlan": 0
            }]}, "ownerControllerType": "StatefulSet", "ownerControllerName": "web"}
        }))?;
        world.endpoints().create(&kube::api::PostParams::default(), &endpoint).await?;
    }
    let leader = world.lead(settings());
    let claims: Api<IPClaim> = Api::all(world.client.clone());
    let held = || async {
        let mut names: Vec<_> = world.held().await?.iter().map(ResourceExt::name_any).collect();
        names.sort_unstable();
        Ok((names == [1, 2, 3].map(|number| name_of(world.address(number))), names))
    };
    wait("claims for what is in use", SOON, held).await?;
    assert!(claims.get_opt("10.52.0.4").await?.is_none());
    // Longer than the rest of a claim that nobody lists.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.held().await?.len(), 3);
    assert_eq!(world.endpoint("lone").await?, Some(Bound));
    let status = world.pool().await?.status.unwrap_or_default();
    assert_eq!(status.allocated_ip_count, Some(3));
    leader.stop().await;
    Ok(())
}
