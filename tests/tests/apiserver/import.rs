//! Records that another IPAM left, and addresses whose claim is not their endpoint's.

use anyhow::Result;
use holdfast_api::claim::name_of;
use holdfast_api::endpoint::HolderState::Bound;
use holdfast_api::store::AcquireOutcome;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::world::{SOON, World, settings, wait};

/// An endpoint as Spiderpool writes it: no UID of its owner, no container, no generation.
async fn spiderpools_endpoint(world: &World, name: &str, uid: Option<String>, ip: Value) -> Result<()> {
    let endpoint = serde_json::from_value(json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint", "metadata": {"name": name},
        "status": {"current": {"uid": uid, "node": world.name, "ips": [ip]},
            "ownerControllerType": "StatefulSet", "ownerControllerName": "web"}
    }))?;
    world.endpoints().create(&PostParams::default(), &endpoint).await?;
    Ok(())
}

fn on_eth0(address: &str, pool: &str) -> Value {
    json!({"interface": "eth0", "ipv4": format!("{address}/16"), "ipv4Pool": pool, "vlan": 0})
}

/// A pool's records as Spiderpool writes them.
async fn record(world: &World, pool: &str, records: &[(&str, &str, Option<String>)]) -> Result<()> {
    let records: serde_json::Map<_, _> = records
        .iter()
        .map(|(address, pod, uid)| {
            let record = json!({"interface": "eth0", "pod": format!("{}/{pod}", world.name), "podUid": uid});
            ((*address).to_owned(), record)
        })
        .collect();
    let count = records.len();
    let status = json!({"status": {"allocatedIPs": Value::from(records).to_string(), "allocatedIPCount": count}});
    world.pools().patch_status(pool, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Waits until exactly these addresses of the test's pool are held.
async fn held(world: &World, numbers: &[u16]) -> Result<()> {
    let mut wanted: Vec<_> = numbers.iter().map(|number| name_of(world.address(*number))).collect();
    wanted.sort_unstable();
    let look = || async {
        let mut names: Vec<_> = world.held().await?.iter().map(ResourceExt::name_any).collect();
        names.sort_unstable();
        Ok((names == wanted, names))
    };
    wait("claims for what is in use", SOON, look).await?;
    Ok(())
}

/// Waits until a claim that no endpoint lists, made now, was marked: claims that have rested as long were looked at before.
async fn unlisted_rest(world: &World, number: u16) -> Result<()> {
    world.make_pod("marker", None, &world.name).await?;
    world.store.acquire(world.address(number), &world.name, &world.pod_name("marker")).await?;
    let look = || async {
        let held = world.held().await?.iter().any(|claim| claim.spec.address == world.address(number));
        Ok((!held, held))
    };
    wait("the rest of a claim that no endpoint lists", SOON, look).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_installation_is_taken_over() -> Result<()> {
    let world = World::new("import", 52).await?;
    world.make_node(&world.name).await?;
    let set = world.make_set("web", 2).await?;
    let pod = world.make_pod("web-0", Some(&set), &world.name).await?;
    let lone = world.make_pod("lone", None, &world.name).await?;
    let gone = || Some("gone".to_owned());
    let records = [
        ("10.52.0.1", "web-0", pod.uid()),
        ("10.52.0.2", "web-1", gone()),
        ("10.52.0.3", "lone", lone.uid()),
        ("10.52.0.4", "missing", gone()),
    ];
    record(&world, &world.name, &records).await?;
    spiderpools_endpoint(&world, "web-0", pod.uid(), on_eth0("10.52.0.1", &world.name)).await?;
    spiderpools_endpoint(&world, "web-1", gone(), on_eth0("10.52.0.2", &world.name)).await?;
    let leader = world.lead(settings());
    held(&world, &[1, 2, 3]).await?;
    world.reported("Imported", "lone").await?;
    unlisted_rest(&world, 9).await?;
    assert_eq!(world.held().await?.len(), 3);
    assert_eq!(world.endpoint("lone").await?, Some(Bound));
    let counted = || async {
        let status = world.pool().await?.status.unwrap_or_default();
        Ok((status.allocated_ip_count == Some(3), status.allocated_ip_count))
    };
    wait("three to be counted", SOON, counted).await?;
    leader.stop().await;
    Ok(())
}

/// The controller before this one ended after the claim and before the endpoint; and another's claim is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_cut_off_half_way_is_finished() -> Result<()> {
    let world = World::new("half", 53).await?;
    world.make_node(&world.name).await?;
    let (lone, late) =
        (world.make_pod("lone", None, &world.name).await?, world.make_pod("late", None, &world.name).await?);
    let other = world.make_pod("other", None, &world.name).await?;
    world.bind(&other, world.address(2), None).await?;
    record(&world, &world.name, &[("10.53.0.1", "lone", lone.uid()), ("10.53.0.2", "late", late.uid())]).await?;
    world.store.create_claim(world.address(1), &world.name, &world.pod_name("lone")).await?;
    let leader = world.lead(settings());
    let listed = || async {
        let state = world.endpoint("lone").await?;
        Ok((state == Some(Bound), state))
    };
    wait("the endpoint to be made", SOON, listed).await?;
    world.reported("AddressTaken", "late").await?;
    unlisted_rest(&world, 9).await?;
    held(&world, &[1, 2]).await?;
    assert_eq!(world.endpoint("late").await?, None);
    leader.stop().await;
    Ok(())
}

/// A pool with a long name, a record without a pool, a namespace that is going: none of them holds the others up.
#[tokio::test(flavor = "multi_thread")]
async fn one_odd_object_does_not_block_others() -> Result<()> {
    let world = World::new("odd", 54).await?;
    world.make_node(&world.name).await?;
    let long = format!("{}.{}", "long-pool-name".repeat(4), "and-more".repeat(4));
    let stuck = format!("{}-stuck", world.name);
    world.make_pool(&long, json!({"subnet": "10.55.0.0/16", "ips": ["10.55.0.1-10.55.0.9"]})).await?;
    world.make_pool(&stuck, json!({"subnet": "10.56.0.0/16", "ips": ["10.56.0.1-10.56.0.9"]})).await?;
    let set = world.make_set("web", 3).await?;
    let mut pods = Vec::new();
    for name in ["web-0", "web-1", "web-2"] {
        pods.push(world.make_pod(name, Some(&set), &world.name).await?);
    }
    let uid = |at: usize| pods.get(at).and_then(ResourceExt::uid);
    spiderpools_endpoint(&world, "web-0", uid(0), on_eth0("10.55.0.1", &long)).await?;
    spiderpools_endpoint(&world, "web-1", uid(1), json!({"interface": "eth0", "ipv4": "10.54.0.1/16", "vlan": 0}))
        .await?;
    spiderpools_endpoint(&world, "web-2", uid(2), json!({"interface": "eth0", "ipv4": "10.99.0.1/16", "vlan": 0}))
        .await?;
    let going = world.going_namespace("odd-going").await?;
    let there: Pod = going.pod("there", &world.name).await?;
    let records = json!({"10.56.0.1": {"interface": "eth0", "pod": going.of("there"), "podUid": there.uid()}});
    let status = json!({"status": {"allocatedIPs": records.to_string(), "allocatedIPCount": 1}});
    world.pools().patch_status(&stuck, &PatchParams::default(), &Patch::Merge(status)).await?;
    going.delete().await?;
    let leader = world.lead(settings());
    held(&world, &[1]).await?;
    for (address, pool) in [("10.55.0.1", long.as_str()), ("10.99.0.1", "(none)")] {
        let look = || async {
            let claim = world.store.claim(address.parse()?).await?;
            Ok((claim.is_some(), claim.map(|claim| claim.spec.pool)))
        };
        wait("the claim of an odd record", SOON, look).await?;
        assert_eq!(look().await?.1.as_deref(), Some(pool));
    }
    assert_eq!(world.store.pool_claims(&long).await?.len(), 1);
    let viewed = |pool: String| {
        let pools = world.pools();
        move || {
            let (pools, pool) = (pools.clone(), pool.clone());
            async move {
                let conditions = pools.get(&pool).await?.status.unwrap_or_default().conditions;
                Ok((!conditions.is_empty(), conditions.len()))
            }
        }
    };
    wait("the long pool's view", SOON, viewed(long.clone())).await?;
    // The claim whose pod cannot get an endpoint waits, and no other pod gets its address meanwhile.
    let (view, _) = viewed(stuck.clone())().await?;
    assert!(!view, "agents would allocate from the pool whose address in use is not taken over");
    unlisted_rest(&world, 9).await?;
    assert!(matches!(
        world.store.acquire("10.56.0.1".parse()?, &stuck, &world.pod_name("web-0")).await?,
        AcquireOutcome::HeldBy(_)
    ));
    going.end().await?;
    wait("the view of the pool that waited", SOON * 2, viewed(stuck)).await?;
    leader.stop().await;
    Ok(())
}

/// A user deletes the claim of an address in use.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_claim_is_created_again() -> Result<()> {
    let world = World::new("missing", 57).await?;
    world.make_node(&world.name).await?;
    let leader = world.lead(settings());
    let pod = world.make_pod("a", None, &world.name).await?;
    world.bind(&pod, world.address(1), None).await?;
    let uid = world.store.claim(world.address(1)).await?.and_then(|claim| claim.uid());
    world.claim_api().delete(&name_of(world.address(1)), &DeleteParams::default()).await?;
    let look = || async {
        let claim = world.store.claim(world.address(1)).await?;
        let anew = claim.as_ref().is_some_and(|claim| claim.belongs_to(&world.pod_name("a")) && claim.uid() != uid);
        Ok((anew, claim.map(|claim| claim.spec)))
    };
    wait("the claim to be there again", SOON, look).await?;
    world.reported("ClaimMissing", "a").await?;
    leader.stop().await;
    Ok(())
}

/// Two endpoints list one address, as when two IPAMs allocate: both keep it, and an event reports it.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_two_endpoints_is_reported() -> Result<()> {
    let world = World::new("two", 58).await?;
    world.make_node(&world.name).await?;
    let leader = world.lead(settings());
    let (a, b) = (world.make_pod("a", None, &world.name).await?, world.make_pod("b", None, &world.name).await?);
    world.bind(&a, world.address(1), None).await?;
    world.list(&b, world.address(1), None).await?;
    world.reported("AddressTaken", "b").await?;
    let claim = world.store.claim(world.address(1)).await?.expect("it is not deleted");
    assert!(claim.belongs_to(&world.pod_name("a")));
    assert_eq!((world.endpoint("a").await?, world.endpoint("b").await?), (Some(Bound), Some(Bound)));
    leader.stop().await;
    Ok(())
}
