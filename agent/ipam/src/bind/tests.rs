use std::sync::Arc;

use holdfast_api::{
    claim::{ClaimState, IPClaim},
    endpoint::STATEFUL_SET,
    ippool::SpiderIPPool,
    store::Store,
};
use holdfast_cni::NetConf;
use holdfast_core::{id::Generation, pool::Family};
use serde_json::{Value, json};

use super::*;
use crate::{
    error::ErrorClass,
    ipam::Settings,
    metrics::IpamMetrics,
    mock_api_server::{DEADLINE, Exchange, MockApiServer, failure, mock_api_server},
    pool_cache::PoolCache,
};

const GET_POD: &str = "GET /api/v1/namespaces/d/pods/web-0";
const GET_NAMESPACE: &str = "GET /api/v1/namespaces/d";
const GET_ENDPOINT: &str = "GET /apis/spiderpool.spidernet.io/v2beta1/namespaces/d/spiderendpoints/web-0";
const CREATE_ENDPOINT: &str = "POST /apis/spiderpool.spidernet.io/v2beta1/namespaces/d/spiderendpoints";
const UPDATE_ENDPOINT: &str = "PUT /apis/spiderpool.spidernet.io/v2beta1/namespaces/d/spiderendpoints/web-0";
const DELETE_ENDPOINT: &str = "DELETE /apis/spiderpool.spidernet.io/v2beta1/namespaces/d/spiderendpoints/web-0";
const CREATE_CLAIM: &str = "POST /apis/holdfast.io/v1alpha1/ipclaims";
const GET_CLAIM_1: &str = "GET /apis/holdfast.io/v1alpha1/ipclaims/10.0.0.1";
const GET_CLAIM_2: &str = "GET /apis/holdfast.io/v1alpha1/ipclaims/10.0.0.2";
const UPDATE_CLAIM_2: &str = "PUT /apis/holdfast.io/v1alpha1/ipclaims/10.0.0.2";
const LIST_CLAIMS: &str = "GET /apis/holdfast.io/v1alpha1/ipclaims?&labelSelector=holdfast.io%2Fpool%3Da";

/// An IPAM on node `n1` with a default pool for each of `subnets`: `a` for IPv4, `b` for IPv6.
fn ipam(pools: &[(&str, &str, &str)], client: kube::Client) -> Ipam {
    let pool = |(name, subnet, ip): &(&str, &str, &str)| {
        let spec = json!({"subnet": subnet, "ips": [ip], "default": true});
        SpiderIPPool::new(name, serde_json::from_value(spec).unwrap())
    };
    let cache = PoolCache::default();
    cache.replace(pools.iter().map(pool).collect(), &[]);
    let families = pools.iter().map(|(_, subnet, _)| if subnet.contains(':') { Family::V6 } else { Family::V4 });
    let settings = Settings { node: "n1".into(), families: families.collect(), sticky_stateful_sets: true };
    Ipam::new(Store::new(client), Arc::new(cache), settings, IpamMetrics::default())
}

/// The pool `a`, which has only 10.0.0.2.
const POOL: &[(&str, &str, &str)] = &[("a", "10.0.0.0/24", "10.0.0.2")];

/// The pod `web-0` with UID `one` on node `n1`.
fn pod(owner: Option<&str>) -> Value {
    let owners = owner
        .map(|kind| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "s", "controller": true}]));
    json!({
        "metadata": {"namespace": "d", "name": "web-0", "uid": "one", "ownerReferences": owners},
        "spec": {"nodeName": "n1", "containers": []},
    })
}

/// An endpoint at the API server, whose `container` holds `address` from pool `a` on `eth0`.
fn endpoint(owner: &str, container: &str, generation: u64, address: &str) -> Value {
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
        "metadata": {"namespace": "d", "name": "web-0", "uid": "e", "resourceVersion": "7"},
        "spec": {},
        "status": {
            "current": {
                "uid": "one", "node": "n1", "containerID": container, "generation": generation,
                "ips": [{"interface": "eth0", "ipv4": format!("{address}/24"), "ipv4Pool": "a"}],
            },
            "ownerControllerType": owner, "ownerControllerName": "web", "ownerControllerUID": "s",
        },
    })
}

/// The claim of `address` at the API server.
fn claim(address: &str, endpoint: &str) -> Value {
    let (namespace, name) = endpoint.split_once('/').unwrap();
    let mut claim = IPClaim::held(address.parse().unwrap(), "a", &PodName::new(namespace, name));
    (claim.metadata.uid, claim.metadata.resource_version) = (Some("c".into()), Some("3".into()));
    serde_json::to_value(claim).unwrap()
}

fn claim_list(claim: &Value) -> Value {
    json!({"apiVersion": "holdfast.io/v1alpha1", "kind": "IPClaimList", "metadata": {}, "items": [claim]})
}

/// The three reads by which each ADD begins.
fn reads(pod: Value, endpoint: Value) -> [Exchange<'static>; 3] {
    [(GET_POD, pod), (GET_NAMESPACE, json!({"metadata": {"name": "d"}})), (GET_ENDPOINT, endpoint)]
}

/// Binds container `c1` of pod `web-0` while `script` answers, and expects no request that the script does not.
async fn bind(
    pools: &[(&str, &str, &str)],
    script: impl AsyncFnOnce(&mut MockApiServer),
) -> Result<IpAllocation, IpamError> {
    let (client, mut server) = mock_api_server();
    let ipam = ipam(pools, client);
    let conf = NetConf::from_value(&json!({"cniVersion": "1.0.0", "name": "lan", "type": "holdfast"})).unwrap();
    let request = BindRequest {
        pod: PodName::new("d", "web-0"),
        uid: Some("one".to_owned()),
        container: "c1".parse().unwrap(),
        interface: "eth0".parse().unwrap(),
        conf: &conf,
    };
    let both = async { tokio::join!(ipam.bind(&request), script(&mut server)) };
    let (outcome, ()) = tokio::time::timeout(DEADLINE, both).await.expect("a request that the script does not answer");
    server.expect_no_more();
    outcome
}

fn holder(body: &Value) -> (&str, u64) {
    let current = &body["status"]["current"];
    (current["containerID"].as_str().unwrap(), current["generation"].as_u64().unwrap())
}

#[tokio::test]
async fn a_first_add_claims_then_writes_then_verifies() {
    let allocation = bind(POOL, async |server| {
        server.expect_concurrent(&reads(pod(None), failure(404))).await;
        let created = server.expect(CREATE_CLAIM, claim("10.0.0.2", "d/web-0")).await;
        assert_eq!(
            created["spec"],
            json!({"address": "10.0.0.2", "pool": "a", "endpoint": "d/web-0", "state": "held"})
        );
        let written = server.expect(CREATE_ENDPOINT, endpoint("Pod", "c1", 1, "10.0.0.2")).await;
        assert_eq!(holder(&written), ("c1", 1));
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
    });
    let allocation = allocation.await.unwrap();
    assert_eq!((allocation.ip.ipv4.as_deref(), allocation.generation), (Some("10.0.0.2/24"), Generation(1)));
    assert!(allocation.displaced.is_empty());
}

#[tokio::test]
async fn an_add_that_fails_after_its_write_is_undone_endpoint_first_then_claim() {
    let outcome = bind(POOL, async |server| {
        server.expect_concurrent(&reads(pod(None), failure(404))).await;
        server.expect(CREATE_CLAIM, claim("10.0.0.2", "d/web-0")).await;
        let written = endpoint("Pod", "c1", 1, "10.0.0.2");
        server.expect(CREATE_ENDPOINT, written.clone()).await;
        server.expect(GET_CLAIM_2, failure(500)).await;
        // No address was lost, so none is dropped from the endpoint before the unbind reads it.
        server.expect(GET_ENDPOINT, written.clone()).await;
        server.expect(GET_ENDPOINT, written).await;
        let deleted = server.expect(DELETE_ENDPOINT, json!({"kind": "Status", "status": "Success"})).await;
        assert_eq!(deleted["preconditions"], json!({"uid": "e", "resourceVersion": "7"}));
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
        server.expect(GET_ENDPOINT, failure(404)).await;
        let released = server.expect(UPDATE_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
        assert_eq!(released["spec"]["state"], json!(ClaimState::Released));
    });
    assert_eq!(outcome.await.unwrap_err().class(), ErrorClass::ApiServer);
}

#[tokio::test]
async fn the_undo_of_a_sticky_add_reserves_the_addresses() {
    let outcome = bind(POOL, async |server| {
        let before = endpoint(STATEFUL_SET, "c0", 3, "10.0.0.2");
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), before)).await;
        let written = endpoint(STATEFUL_SET, "c1", 4, "10.0.0.2");
        server.expect_concurrent(&[(UPDATE_ENDPOINT, written.clone()), (GET_CLAIM_2, failure(500))]).await;
        server.expect(GET_ENDPOINT, written.clone()).await;
        server.expect(GET_ENDPOINT, written.clone()).await;
        let reserved = server.expect(UPDATE_ENDPOINT, written).await;
        let current = &reserved["status"]["current"];
        assert_eq!((&current["state"], &current["containerID"]), (&json!("Reserved"), &Value::Null));
        assert_eq!(current["ips"][0]["ipv4"], "10.0.0.2/24");
        assert_eq!(reserved["status"]["history"][0]["reason"], "AddFailed");
    });
    assert_eq!(outcome.await.unwrap_err().class(), ErrorClass::ApiServer);
}

#[tokio::test]
async fn the_undo_drops_addresses_of_other_endpoints_before_it_unbinds() {
    let outcome = bind(POOL, async |server| {
        let before = endpoint(STATEFUL_SET, "c0", 3, "10.0.0.1");
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), before)).await;
        let written = endpoint(STATEFUL_SET, "c1", 4, "10.0.0.1");
        let taken = claim("10.0.0.1", "d/other");
        server.expect_concurrent(&[(UPDATE_ENDPOINT, written.clone()), (GET_CLAIM_1, taken)]).await;
        server.expect(GET_ENDPOINT, written.clone()).await;
        server.expect(CREATE_CLAIM, failure(409)).await;
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/other")).await;
        server.expect(LIST_CLAIMS, claim_list(&claim("10.0.0.2", "d/other"))).await;
        server.expect(GET_ENDPOINT, written.clone()).await;
        let dropped = server.expect(UPDATE_ENDPOINT, written).await;
        assert_eq!((holder(&dropped), &dropped["status"]["current"]["ips"][0]["ipv4"]), (("c1", 4), &Value::Null));
        server.expect(GET_ENDPOINT, dropped.clone()).await;
        let reserved = server.expect(UPDATE_ENDPOINT, dropped).await;
        assert_eq!(reserved["status"]["current"]["containerID"], Value::Null);
    });
    assert_eq!(outcome.await.unwrap_err().class(), ErrorClass::Exhausted);
}

#[tokio::test]
async fn an_add_that_fails_before_its_write_undoes_nothing() {
    let outcome = bind(POOL, async |server| {
        let mut other = pod(None);
        other["metadata"]["uid"] = json!("two");
        server.expect_concurrent(&reads(other, endpoint("Pod", "c0", 3, "10.0.0.2"))).await;
    });
    assert_eq!(outcome.await.unwrap_err().class(), ErrorClass::Stale);
    let outcome = bind(POOL, async |server| {
        server.expect_concurrent(&reads(pod(None), failure(404))).await;
        let taken = claim("10.0.0.2", "d/other");
        server.expect(CREATE_CLAIM, failure(409)).await;
        server.expect(GET_CLAIM_2, taken.clone()).await;
        server.expect(LIST_CLAIMS, claim_list(&taken)).await;
    });
    let error = outcome.await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Exhausted);
    assert!(error.to_string().contains("pool a is exhausted: its 1 addresses are held by d/other"), "{error}");
}

#[tokio::test]
async fn a_repeated_add_of_the_holder_writes_nothing_even_if_it_fails() {
    let mut bound = Value::Null;
    let first = bind(POOL, async |server| {
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), failure(404))).await;
        server.expect(CREATE_CLAIM, claim("10.0.0.2", "d/web-0")).await;
        bound = server.expect(CREATE_ENDPOINT, endpoint(STATEFUL_SET, "c1", 1, "10.0.0.2")).await;
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
    });
    first.await.unwrap();
    bound["metadata"]["resourceVersion"] = json!("8");
    let again = bind(POOL, async |server| {
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), bound.clone())).await;
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
    });
    assert_eq!(again.await.unwrap().generation, Generation(1));
    let failed = bind(POOL, async |server| {
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), bound.clone())).await;
        server.expect(GET_CLAIM_2, failure(500)).await;
    });
    assert_eq!(failed.await.unwrap_err().class(), ErrorClass::ApiServer);
}

#[tokio::test]
async fn an_add_that_always_conflicts_gives_up_and_leaves_the_other_holder() {
    let outcome = bind(POOL, async |server| {
        let newer = endpoint(STATEFUL_SET, "c0", 3, "10.0.0.2");
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), newer.clone())).await;
        for _ in 0..ATTEMPTS {
            let held = claim("10.0.0.2", "d/web-0");
            let bodies = server.expect_concurrent(&[(UPDATE_ENDPOINT, failure(409)), (GET_CLAIM_2, held)]).await;
            assert_eq!(holder(&bodies[0]), ("c1", 4));
            server.expect(GET_ENDPOINT, newer.clone()).await;
        }
        // The undo reads twice and finds another holder.
        server.expect(GET_ENDPOINT, newer.clone()).await;
        server.expect(GET_ENDPOINT, newer).await;
    });
    assert_eq!(outcome.await.unwrap_err().class(), ErrorClass::Contended);
}

#[tokio::test]
async fn an_address_that_another_endpoint_claimed_is_replaced_and_displaced() {
    let allocation = bind(POOL, async |server| {
        let before = endpoint(STATEFUL_SET, "c0", 3, "10.0.0.1");
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), before)).await;
        let written = endpoint(STATEFUL_SET, "c1", 4, "10.0.0.1");
        let taken = claim("10.0.0.1", "d/other");
        server.expect_concurrent(&[(UPDATE_ENDPOINT, written.clone()), (GET_CLAIM_1, taken)]).await;
        server.expect(GET_ENDPOINT, written).await;
        server.expect(CREATE_CLAIM, claim("10.0.0.2", "d/web-0")).await;
        let body = server.expect(UPDATE_ENDPOINT, endpoint(STATEFUL_SET, "c1", 4, "10.0.0.2")).await;
        assert_eq!(holder(&body), ("c1", 4), "the same holder keeps its generation");
        assert_eq!(body["status"]["current"]["ips"][0]["ipv4"], "10.0.0.2/24");
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
    });
    let allocation = allocation.await.unwrap();
    assert_eq!(allocation.ip.ipv4.as_deref(), Some("10.0.0.2/24"));
    assert_eq!(allocation.displaced, [IpAddr::from([10, 0, 0, 1])]);
}

#[tokio::test]
async fn a_deleted_claim_of_a_kept_address_is_created_again() {
    let allocation = bind(POOL, async |server| {
        let before = endpoint(STATEFUL_SET, "c0", 3, "10.0.0.2");
        server.expect_concurrent(&reads(pod(Some(STATEFUL_SET)), before)).await;
        let written = endpoint(STATEFUL_SET, "c1", 4, "10.0.0.2");
        server.expect_concurrent(&[(UPDATE_ENDPOINT, written), (GET_CLAIM_2, failure(404))]).await;
        server.expect(CREATE_CLAIM, claim("10.0.0.2", "d/web-0")).await;
    });
    assert_eq!(allocation.await.unwrap().generation, Generation(4));
}

#[tokio::test]
async fn an_address_of_one_family_is_released_where_another_family_has_none() {
    let pools = &[POOL[0], ("b", "fd00::/64", "fd00::2")];
    let outcome = bind(pools, async |server| {
        let v6 = "/apis/holdfast.io/v1alpha1/ipclaims/fd00-0-0-0-0-0-0-2";
        let (get_v6, list_v6) = (format!("GET {v6}"), LIST_CLAIMS.replace("%3Da", "%3Db"));
        server.expect_concurrent(&reads(pod(None), failure(404))).await;
        let both = [(CREATE_CLAIM, claim("10.0.0.2", "d/web-0")), (CREATE_CLAIM, failure(409))];
        let bodies = server.expect_concurrent(&both).await;
        assert_eq!([&bodies[0]["spec"]["address"], &bodies[1]["spec"]["address"]], ["10.0.0.2", "fd00::2"]);
        server.expect(&get_v6, claim("fd00::2", "d/other")).await;
        let mut taken = claim("fd00::2", "d/other");
        taken["spec"]["pool"] = json!("b");
        server.expect(&list_v6, claim_list(&taken)).await;
        server.expect(GET_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
        server.expect(GET_ENDPOINT, failure(404)).await;
        let released = server.expect(UPDATE_CLAIM_2, claim("10.0.0.2", "d/web-0")).await;
        assert_eq!(released["spec"]["state"], json!(ClaimState::Released));
    });
    let error = outcome.await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Exhausted);
    assert!(error.to_string().contains("no free IPv6 address"), "{error}");
}
