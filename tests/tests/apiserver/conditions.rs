//! Pools: conditions and deletion.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_api::endpoint::HolderState::Bound;
use holdfast_api::reserved::SpiderReservedIP;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
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
async fn an_invalid_pool_says_so_in_its_conditions() -> Result<()> {
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

/// Reserving an address in use keeps its holder and flags it; a pool whose free addresses are all reserved is used up.
#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_reports_the_holder_of_a_reserved_address() -> Result<()> {
    let world = World::new("reserved", 59).await?;
    let leader = world.lead(settings());
    world.make_node(&world.name).await?;
    let pod = world.make_pod("a", None, &world.name).await?;
    world.bind(&pod, world.address(1), None).await?;
    let patch = Patch::Merge(json!({"spec": {"ips": ["10.59.0.1-10.59.0.3"]}}));
    world.pools().patch(&world.name, &PatchParams::default(), &patch).await?;
    condition(&world, &world.name, "HeldReserved", "False").await?;
    let spec = serde_json::from_value(json!({"ipVersion": 4, "ips": ["10.59.0.1-10.59.0.2"]}))?;
    let reservations: Api<SpiderReservedIP> = Api::all(world.client.clone());
    reservations.create(&PostParams::default(), &SpiderReservedIP::new(&world.name, spec)).await?;
    assert!(condition(&world, &world.name, "HeldReserved", "True").await?.contains("10.59.0.1"));
    assert_eq!(world.endpoint("a").await?, Some(Bound));
    let third = world.make_pod("c", None, &world.name).await?;
    world.bind(&third, world.address(3), None).await?;
    condition(&world, &world.name, "Exhausted", "True").await?;
    let status = world.pool().await?.status.unwrap_or_default();
    assert_eq!((status.total_ip_count, status.allocated_ip_count), (Some(3), Some(2)));
    reservations.delete(&world.name, &DeleteParams::default()).await?;
    condition(&world, &world.name, "Exhausted", "False").await?;
    condition(&world, &world.name, "HeldReserved", "False").await?;
    leader.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_keeps_a_pool_in_use() -> Result<()> {
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
