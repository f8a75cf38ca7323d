use holdfast_api::endpoint::STATEFUL_SET;
use holdfast_cni::NetConf;
use holdfast_core::id::PodName;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::{ipam::Settings, requests::BindRequest};

const POOL: &str = "a";

fn settings(stateful_set: bool) -> Settings {
    Settings { node: "n1".into(), families: vec![Family::V4], sticky_stateful_sets: stateful_set }
}

/// The pod `web-0` of the StatefulSet with this UID.
fn pod(uid: &str, set: &str, annotations: &Value) -> Pod {
    let owner = json!({"apiVersion": "apps/v1", "kind": STATEFUL_SET, "name": "web", "uid": set, "controller": true});
    serde_json::from_value(json!({"metadata": {
        "namespace": "d", "name": "web-0", "uid": uid, "ownerReferences": [owner], "annotations": annotations,
    }}))
    .unwrap()
}

/// The endpoint that pod `one` of StatefulSet `s` held last: an address of pool [`POOL`] on each of two interfaces.
fn endpoint() -> SpiderEndpoint {
    let mut endpoint = SpiderEndpoint::for_pod(&PodName::new("d", "web-0"));
    endpoint.status = serde_json::from_value(json!({
        "current": {"uid": "one", "node": "n1", "generation": 3, "ips": [
            {"interface": "eth0", "ipv4": "10.0.0.1/24", "ipv4Pool": POOL},
            {"interface": "net1", "ipv4": "10.0.0.2/24", "ipv4Pool": POOL},
        ]},
        "ownerControllerType": STATEFUL_SET, "ownerControllerName": "web", "ownerControllerUID": "s",
    }))
    .unwrap();
    endpoint
}

/// Returns the addresses that `pod` keeps of [`endpoint`] on `eth0`.
fn kept(pod: &Pod, settings: &Settings) -> Vec<String> {
    kept_but(pod, settings, &HashSet::new())
}

/// Returns the same where some addresses were lost.
fn kept_but(pod: &Pod, settings: &Settings, lost: &HashSet<IpAddr>) -> Vec<String> {
    let conf = NetConf::from_value(&json!({"cniVersion": "1.0.0", "name": "lan", "type": "holdfast"})).unwrap();
    let request = BindRequest {
        pod: PodName::new("d", "web-0"),
        uid: None,
        container: "c".parse().unwrap(),
        interface: "eth0".parse().unwrap(),
        conf: &conf,
    };
    let spec = BindSpec::new(settings, &request, pod, None).unwrap();
    let others: Vec<IpAddr> = spec.on_other_interfaces(Some(&endpoint())).into_iter().collect();
    assert_eq!(others, [IpAddr::from([10, 0, 0, 2])], "the other interface's address is not free");
    spec.kept_addresses(Some(&endpoint()), lost).iter().map(|kept| kept.address().to_string()).collect()
}

#[test]
fn a_set_keeps_its_addresses_and_a_new_set_of_its_name_does_not() {
    let none = json!({});
    assert_eq!(kept(&pod("one", "s", &none), &settings(true)), ["10.0.0.1"], "a new sandbox");
    assert_eq!(kept(&pod("two", "s", &none), &settings(true)), ["10.0.0.1"], "a new pod");
    assert_eq!(kept(&pod("two", "other", &none), &settings(true)), [""; 0]);
}

#[test]
fn without_stickiness_only_the_same_pod_keeps_its_addresses() {
    let none = json!({});
    assert_eq!(kept(&pod("one", "s", &none), &settings(false)), ["10.0.0.1"]);
    assert_eq!(kept(&pod("two", "s", &none), &settings(false)), [""; 0]);
}

#[test]
fn only_annotations_of_the_pod_move_its_addresses() {
    let names = |pool: &str| json!({"ipam.spidernet.io/ippool": json!({"ipv4": [pool]}).to_string()});
    assert_eq!(kept(&pod("two", "s", &names(POOL)), &settings(true)), ["10.0.0.1"]);
    assert_eq!(kept(&pod("two", "s", &names("b")), &settings(true)), [""; 0], "other pools are named");
    let fixed = |address: &str| json!({"ipam.spidernet.io/static-ips": json!({"0": [address]}).to_string()});
    assert_eq!(kept(&pod("two", "s", &fixed("10.0.0.1")), &settings(true)), ["10.0.0.1"]);
    assert_eq!(kept(&pod("two", "s", &fixed("10.0.0.9")), &settings(true)), [""; 0], "another address is fixed");
}

#[test]
fn an_address_of_another_endpoint_is_not_kept() {
    let lost = HashSet::from([IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(kept_but(&pod("two", "s", &json!({})), &settings(true), &lost), [""; 0]);
}
