use std::sync::LazyLock;

use holdfast_api::ippool::SpiderIPPool;
use holdfast_cni::Ipam;
use serde_json::json;

use super::*;
use crate::pool_cache::PoolCache;

static NONE: LazyLock<Labels> = LazyLock::new(Labels::new);

fn pools(specs: &[(&str, serde_json::Value)]) -> PoolCache {
    let pools = specs.iter().map(|(name, spec)| {
        let mut spec = spec.clone();
        spec["subnet"] = json!("10.0.0.0/24");
        SpiderIPPool::new(name, serde_json::from_value(spec).unwrap())
    });
    let known = PoolCache::default();
    known.replace(pools.collect(), &[]);
    known
}

fn ask(pools: &PoolCache, names: &[&str]) -> Result<Vec<String>, String> {
    let conf =
        Ipam { default_ipv4_ippool: Some(names.iter().map(|name| (*name).to_owned()).collect()), ..Ipam::default() };
    let selection = PoolSelection::new(&NONE, &NONE, &conf, &"eth0".parse().unwrap()).unwrap();
    let context = PodContext {
        namespace: "default",
        namespace_labels: &NONE,
        pod_labels: &NONE,
        node: "node1",
        node_labels: &NONE,
        network: "lan",
    };
    let found = eligible_pools(&pools.all(), &selection, Family::V4, &context);
    found.map(|found| found.iter().map(|pool| pool.name.clone()).collect()).map_err(|error| error.to_string())
}

#[test]
fn names_keep_their_order_and_patterns_match() {
    let known = pools(&[("a1", json!({})), ("a2", json!({})), ("b", json!({})), ("d", json!({"default": true}))]);
    assert_eq!(ask(&known, &["b", "a?", "a1"]).unwrap(), ["b", "a1", "a2"]);
    assert_eq!(ask(&known, &["a[2-9]"]).unwrap(), ["a2"]);
    assert_eq!(ask(&known, &[]).unwrap(), ["d"]);
}

#[test]
fn the_error_names_each_pool_and_the_reason_against_it() {
    let known = pools(&[
        ("off", json!({"disable": true})),
        ("far", json!({"nodeName": ["node2"], "nodeAffinity": {"matchLabels": {}}})),
        ("picky", json!({"podAffinity": {"matchLabels": {"app": "web"}}})),
        ("multus", json!({"multusName": ["kube-system/other"]})),
        ("elsewhere", json!({"namespaceName": ["prod"]})),
        ("broken", json!({"ips": ["x"]})),
    ]);
    let error = ask(&known, &["off", "far", "picky", "multus", "elsewhere", "broken", "nope"]).unwrap_err();
    for word in [
        "off is disabled",
        "far is for node node2",
        "picky is for pods with labels app=web",
        "kube-system/other",
        "elsewhere is for namespace prod",
        "broken cannot be used",
        "\"nope\" does not exist",
        "CNI configuration",
    ] {
        assert!(error.contains(word), "{word} in {error}");
    }
}

#[test]
fn each_rule_decides_alone() {
    let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let (pod_labels, namespace_labels, node_labels) = (labels("app", "web"), labels("team", "a"), labels("zone", "z1"));
    let context = PodContext {
        namespace: "default",
        namespace_labels: &namespace_labels,
        pod_labels: &pod_labels,
        node: "node1",
        node_labels: &node_labels,
        network: "lan",
    };
    let selector = |key: &str, value: &str| json!({"matchLabels": {key: value}});
    let cases = [
        (json!({}), None),
        (json!({"disable": true}), Some("is disabled")),
        (json!({"nodeName": ["node1"]}), None),
        (json!({"nodeName": ["node2"]}), Some("is for node node2, not node1")),
        (json!({"nodeAffinity": selector("zone", "z1")}), None),
        (json!({"nodeAffinity": selector("zone", "z2")}), Some("is for nodes with labels zone=z2")),
        (json!({"nodeName": ["node1"], "nodeAffinity": selector("zone", "z2")}), None),
        (json!({"namespaceName": ["default"]}), None),
        (json!({"namespaceName": ["prod"]}), Some("is for namespace prod, not default")),
        (json!({"namespaceAffinity": selector("team", "a")}), None),
        (json!({"namespaceAffinity": selector("team", "b")}), Some("is for namespaces with labels team=b")),
        (json!({"podAffinity": selector("app", "web")}), None),
        (json!({"podAffinity": selector("app", "db")}), Some("is for pods with labels app=db")),
        (
            json!({"podAffinity": {"matchExpressions": [{"key": "app", "operator": "Near"}]}}),
            Some("has a pod selector that cannot be used"),
        ),
        (json!({"multusName": ["lan"]}), None),
        (json!({"multusName": ["default/lan"]}), None),
        (json!({"multusName": ["prod/lan"]}), Some("is for networks prod/lan, not lan")),
        (json!({"ips": ["x"]}), Some("cannot be used")),
    ];
    for (spec, expected) in cases {
        let cached = pools(&[("a", spec.clone())]).get("a").unwrap();
        let reason = ineligible_reason(&cached, Family::V4, &context);
        match expected {
            None => assert_eq!(reason, None, "{spec}"),
            Some(text) => assert!(reason.as_ref().is_some_and(|reason| reason.contains(text)), "{spec}: {reason:?}"),
        }
    }
}

#[test]
fn a_pool_that_is_deleted_or_foreign_or_of_the_other_family_is_ineligible() {
    let spec = |subnet: &str| serde_json::from_value(json!({"subnet": subnet})).unwrap();
    let mut deleted = SpiderIPPool::new("a", spec("10.0.0.0/24"));
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut foreign = SpiderIPPool::new("a", spec("10.0.0.0/24"));
    foreign.status = serde_json::from_value(json!({"allocatedIPs": "{}"})).unwrap();
    let context = PodContext {
        namespace: "default",
        namespace_labels: &NONE,
        pod_labels: &NONE,
        node: "node1",
        node_labels: &NONE,
        network: "lan",
    };
    for (pool, expected) in [
        (deleted, "is being deleted"),
        (foreign, "has records of another IPAM"),
        (SpiderIPPool::new("a", spec("fd00::/64")), "is an IPv6 pool"),
    ] {
        let reason = ineligible_reason(&pool.into(), Family::V4, &context).unwrap();
        assert!(reason.contains(expected), "{reason}");
    }
}
