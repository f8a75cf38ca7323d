//! Leaks: many at once, hand-made ones, and a leader that dies in the middle.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_api::{
    claim::IPClaim,
    store::{AcquireOutcome, ReleaseOutcome, Store},
};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::{
    server::Server,
    world::{SOON, World, settings, stays, wait, wait_slowly},
};

const MANY: u16 = 2000;

async fn leak_many(world: &World, count: u16) -> Result<()> {
    stream::iter(1..=count).map(Ok).try_for_each_concurrent(16, |number| world.leak(number)).await
}

/// Two thousand leaked addresses in one pool: two writes for each claim, one for each endpoint. The time, which depends on
/// what else the machine does, is printed; half a minute is the budget.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_leaks_are_collected_cheaply() -> Result<()> {
    let mut world = World::new("many", 1).await?;
    leak_many(&world, MANY).await?;
    let (client, counts) = Server::get()?.counted().await?;
    world.store = Store::new(client);
    let leader = world.lead(settings());
    // Looking at all of them costs the server as much as a hundred collections: first until no endpoint is left.
    let held = || async {
        if !world.endpoints().list(&ListParams::default().limit(1)).await?.items.is_empty() {
            return Ok((false, usize::MAX));
        }
        let held = world.held().await?.len();
        Ok((held == 0, held))
    };
    let pause = Duration::from_millis(200);
    let free = wait_slowly("all addresses free", pause, Duration::from_secs(120), held).await?;
    let claimed = || async {
        let left = world.claims().await?.len();
        Ok((left == 0, left))
    };
    wait("all claims gone", Duration::from_secs(120), claimed).await?;
    let used = || async {
        let status = world.pool().await?.status.unwrap_or_default();
        Ok((status.allocated_ip_count == Some(0) && status.allocated_ips.is_none(), status.allocated_ip_count))
    };
    wait("the pool's view empty", SOON, used).await?;
    let (claims, endpoints) = (counts.writes("ipclaims"), counts.writes("spiderendpoints"));
    let (views, events) = (counts.writes("spiderippools"), counts.writes("events"));
    println!(
        "{MANY} addresses free after {free:?}; writes: {claims} claims, {endpoints} endpoints, {views} views, {events} events"
    );
    assert!(claims <= 2 * usize::from(MANY) && endpoints <= usize::from(MANY), "{claims} and {endpoints} writes");
    assert_eq!(world.endpoints().list(&ListParams::default()).await?.items.len(), 0);
    leader.stop().await;
    Ok(())
}

/// The leader is killed in the middle; the other finishes, and addresses that other pods got meanwhile stay theirs.
#[tokio::test(flavor = "multi_thread")]
async fn another_leader_finishes_what_a_dead_one_began() -> Result<()> {
    let world = World::new("dead", 2).await?;
    leak_many(&world, 400).await?;
    let first = world.lead(settings());
    let begun = || async {
        let left = world.endpoints().list(&ListParams::default()).await?.items.len();
        Ok((left < 350, left))
    };
    wait("the leader to begin", SOON, begun).await?;
    drop(first);
    let second = world.lead(holdfast_controller::Settings { identity: "two".to_owned(), ..settings() });
    world.make_node("dead-n").await?;
    let mut taken = HashSet::new();
    // Addresses that the first leader has freed, was about to free, and had not got to: freed twice, some would go again.
    for number in (1..=400u16).step_by(10) {
        let address = world.address(number);
        let pod = world.make_pod(&format!("new-{number}"), None, "dead-n").await?;
        world.bind_when_free(&pod, address).await?;
        taken.insert((address, format!("{}/new-{number}", world.name)));
    }
    let held = || async {
        let held: HashSet<_> =
            world.held().await?.into_iter().map(|claim| (claim.spec.address, claim.spec.endpoint)).collect();
        Ok((held == taken, held.len()))
    };
    wait("only the new holders to be left", Duration::from_secs(30), held).await?;
    world.looked(500).await?;
    assert!(held().await?.0, "a new holder lost its address");
    second.stop().await;
    Ok(())
}

/// A paused leader wakes up with an old claim in its hand: the address is another's by now, and stays theirs.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_mark_frees_nothing_new() -> Result<()> {
    let world = World::new("paused", 3).await?;
    let (address, old, new) = (world.address(1), world.pod_name("old"), world.pod_name("new"));
    world.store.acquire(address, &world.name, &old).await?;
    assert!(world.store.mark_released(address, &old).await?);
    let marked = world.store.claim(address).await?.expect("it was just marked");
    assert_eq!(world.store.finish_release(&marked).await?, ReleaseOutcome::Deleted);
    assert!(matches!(world.store.acquire(address, &world.name, &new).await?, AcquireOutcome::Acquired));
    assert_eq!(world.store.finish_release(&marked).await?, ReleaseOutcome::Changed);
    assert!(world.store.claim(address).await?.is_some_and(|claim| claim.belongs_to(&new)));
    Ok(())
}

/// Records written by hand: one in a pool's status, a claim for a pod that does not exist, a claim under another name.
#[tokio::test(flavor = "multi_thread")]
async fn records_made_by_hand_are_removed() -> Result<()> {
    let world = World::new("hand", 4).await?;
    let leader = world.lead(settings());
    let settled = || async {
        let status = world.pool().await?.status;
        Ok((status.as_ref().is_some_and(|status| status.allocated_ip_count == Some(0)), status))
    };
    wait("the pool's first view", SOON, settled).await?;
    let scribble = json!({"status": {"allocatedIPs": r#"{"10.4.0.9":{"pod":"x/y"}}"#, "allocatedIPCount": 7}});
    world.pools().patch_status(&world.name, &PatchParams::default(), &Patch::Merge(scribble)).await?;
    let clean = || async {
        let status = world.pool().await?.status.unwrap_or_default();
        Ok((status.allocated_ips.is_none() && status.allocated_ip_count == Some(0), status.allocated_ips))
    };
    wait("the scribble to go", Duration::from_secs(5), clean).await?;
    let claims: Api<IPClaim> = Api::all(world.client.clone());
    let by_hand = IPClaim::held(world.address(5), &world.name, &world.pod_name("missing"));
    claims.create(&PostParams::default(), &by_hand).await?;
    let mut misnamed = IPClaim::held(world.address(6), &world.name, &world.pod_name("missing"));
    misnamed.metadata.name = Some("misnamed".to_owned());
    claims.create(&PostParams::default(), &misnamed).await?;
    let gone = || async {
        let left = world.claims().await?.len();
        Ok((left == 0, left))
    };
    wait("the hand-made claims to go", SOON, gone).await?;
    leader.stop().await;
    Ok(())
}

/// A claim that an ADD has just made, before its endpoint, is left alone for its time.
#[tokio::test(flavor = "multi_thread")]
async fn an_add_between_its_two_writes_is_left_alone() -> Result<()> {
    let world = World::new("between", 5).await?;
    world.make_node("between-n").await?;
    let leader = world.lead(settings());
    let pod = world.make_pod("slow", None, "between-n").await?;
    world.store.acquire(world.address(1), &world.name, &world.pod_name("slow")).await?;
    stays("the claim held", Duration::from_secs(2), || async { Ok(world.held().await?.len() == 1) }).await?;
    world.bind(&pod, world.address(1), None).await?;
    stays("the claim held", Duration::from_secs(3), || async { Ok(world.held().await?.len() == 1) }).await?;
    leader.stop().await;
    Ok(())
}
