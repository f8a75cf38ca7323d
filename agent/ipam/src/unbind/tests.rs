use holdfast_api::endpoint::STATEFUL_SET;
use holdfast_core::id::{ContainerId, IfName, PodName};
use serde_json::json;

use super::*;

/// The endpoint of a pod of an owner of this kind; container `c1` holds an address on each interface.
fn endpoint(owner: &str, interfaces: &[(&str, &str)]) -> SpiderEndpoint {
    let mut endpoint = SpiderEndpoint::for_pod(&PodName::new("d", "web-0"));
    let entry = |(interface, address): &(&str, &str)| json!({"interface": interface, "ipv4": format!("{address}/24")});
    let ips: Vec<_> = interfaces.iter().map(entry).collect();
    endpoint.status = serde_json::from_value(json!({
        "current": {"uid": "one", "node": "n1", "containerID": "c1", "generation": 3, "ips": ips},
        "ownerControllerType": owner, "ownerControllerName": "web",
    }))
    .unwrap();
    endpoint
}

struct Case<'a> {
    container: &'a str,
    has_other_interfaces: bool,
    sticky_stateful_sets: bool,
}

const PLAIN: Case<'_> = Case { container: "c1", has_other_interfaces: false, sticky_stateful_sets: true };

fn action(endpoint: &SpiderEndpoint, case: &Case<'_>) -> UnbindAction {
    let pod = PodName::new("d", "web-0");
    let (container, interface): (ContainerId, IfName) = (case.container.parse().unwrap(), "eth0".parse().unwrap());
    let request = UnbindRequest {
        pod: &pod,
        container: &container,
        interface: &interface,
        has_other_interfaces: case.has_other_interfaces,
        reason: "SandboxDeleted",
    };
    UnbindAction::new(endpoint.clone(), &request, case.sticky_stateful_sets, Timestamp::UNIX_EPOCH)
}

const ETH0: (&str, &str) = ("eth0", "10.0.0.1");
const NET1: (&str, &str) = ("net1", "10.0.0.2");

#[test]
fn a_late_del_of_an_old_sandbox_changes_nothing() {
    for owner in [STATEFUL_SET, "Deployment"] {
        let late = Case { container: "c0", ..PLAIN };
        assert_eq!(action(&endpoint(owner, &[ETH0]), &late), UnbindAction::Nothing);
    }
    let empty = SpiderEndpoint::for_pod(&PodName::new("d", "web-0"));
    assert_eq!(action(&empty, &PLAIN), UnbindAction::Nothing);
}

#[test]
fn a_sticky_endpoint_keeps_its_addresses_and_loses_its_holder() {
    let before = endpoint(STATEFUL_SET, &[ETH0, NET1]);
    let UnbindAction::Reserve(after) = action(&before, &PLAIN) else { panic!("not reserved") };
    assert_eq!(after.addresses(), before.addresses());
    let status = after.status.unwrap();
    assert_eq!((status.current.container_id, status.current.state), (None, HolderState::Reserved));
    assert_eq!(status.history[0].container_id.as_deref(), Some("c1"));
    assert_eq!(status.history[0].reason, "SandboxDeleted");
}

#[test]
fn a_sandbox_with_other_interfaces_stays_the_holder_of_sticky_addresses() {
    let one_of_two = Case { has_other_interfaces: true, ..PLAIN };
    assert_eq!(action(&endpoint(STATEFUL_SET, &[ETH0, NET1]), &one_of_two), UnbindAction::Nothing);
}

#[test]
fn an_endpoint_that_is_not_sticky_goes_with_its_last_interface() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let not_sticky = Case { sticky_stateful_sets: false, ..PLAIN };
    for (owner, case) in [("Deployment", &PLAIN), (STATEFUL_SET, &not_sticky)] {
        let one = action(&endpoint(owner, &[ETH0, NET1]), case);
        let UnbindAction::RemoveInterface(after, released) = one else { panic!("{one:?}") };
        assert_eq!((after.addresses(), released), (vec![address("10.0.0.2")], vec![address("10.0.0.1")]));
        let last = action(&endpoint(owner, &[ETH0]), case);
        let UnbindAction::Delete(_, released) = last else { panic!("{last:?}") };
        assert_eq!(released, [address("10.0.0.1")]);
    }
}
