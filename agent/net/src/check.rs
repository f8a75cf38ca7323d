//! CHECK: comparison of a pod's network with its plan.

use holdfast_core::{id::IfIndex, mac::Mac};
use rtnetlink::packet_route::AddressFamily;

use super::{
    address::Address,
    error::NetError,
    host,
    link::{LinkSpec, PodLink, PodNet},
    link_attrs::LinkAttrs,
    neighbour::{Neighbour, Proxy},
    netlink::Socket,
    netns::Netns,
    pod,
    route::{FoundRoute, Route},
    uplink,
};

/// Compares all that `create`, `configure` and `advertise` set up, and changes nothing. Fails with [`NetError::Drift`]
/// if something is missing.
pub(super) fn check(node: &Socket, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
    let mut missing = Vec::new();
    let netns = Netns::open(&spec.netns)?;
    let in_pod = netns.socket()?;
    if let Some(link) = check_links(node, &in_pod, spec, &mut missing)? {
        check_pod(&in_pod, &pod::Plan::new(&link, net)?, &mut missing)?;
        check_host(node, &host::Plan::new(&link, net), &mut missing)?;
        check_proxies(node, net, &mut missing)?;
    }
    if missing.is_empty() { Ok(()) } else { Err(NetError::Drift { pod: spec.pod.clone(), missing }) }
}

/// Checks that both ends exist, are up and are of one pair. Returns `None` if there is nothing else to check.
fn check_links(
    node: &Socket,
    in_pod: &Socket,
    spec: &LinkSpec,
    missing: &mut Vec<String>,
) -> Result<Option<PodLink>, NetError> {
    let host_name = spec.container.host_link(&spec.ifname);
    let host = LinkAttrs::find(node, &host_name)?;
    let pod = LinkAttrs::find(in_pod, &spec.ifname)?;
    for (end, name) in [(&host, &host_name), (&pod, &spec.ifname)] {
        match end {
            None => missing.push(format!("interface {name} is missing")),
            Some(attrs) if !attrs.up => missing.push(format!("interface {name} is down")),
            Some(_) => {}
        }
    }
    let (Some(host), Some(pod)) = (host, pod) else { return Ok(None) };
    if host.peer != Some(pod.index) {
        missing.push(format!("interface {} is not the other end of {host_name}", spec.ifname));
        return Ok(None);
    }
    let link = PodLink {
        spec: spec.clone(),
        host_index: IfIndex(host.index),
        host_mac: Mac::of_host(&host_name),
        pod_index: IfIndex(pod.index),
        pod_mac: Mac::of_pod(&host_name),
        mtu: host.mtu,
        host_name,
    };
    check_macs(&host, &pod, &link, missing);
    Ok(Some(link))
}

fn check_macs(host: &LinkAttrs, pod: &LinkAttrs, link: &PodLink, missing: &mut Vec<String>) {
    for (attrs, mac) in [(host, link.host_mac), (pod, link.pod_mac)] {
        if attrs.mac != Some(mac) {
            missing.push(format!("the hardware address of {} is not {mac}", attrs.name));
        }
    }
}

fn check_pod(in_pod: &Socket, plan: &pod::Plan, missing: &mut Vec<String>) -> Result<(), NetError> {
    let found = Address::list(in_pod)?;
    let lost = plan.addresses.iter().filter(|address| !found.contains(address));
    missing.extend(lost.map(|address| format!("the pod has lost address {}", address.address)));

    let found = all_routes(in_pod)?;
    // ADD leaves a destination that another interface of the pod has a route to.
    let lost = plan.routes.iter().filter(|route| !found.iter().any(|found| found.route.dst == route.dst));
    missing.extend(lost.map(|route| format!("the pod has lost its {}", route.describe())));

    for neighbour in &plan.neighbours {
        if !Neighbour::list(in_pod, neighbour.link)?.contains(neighbour) {
            missing.push(format!("the pod has lost its next hop {}", neighbour.address));
        }
    }
    Ok(())
}

fn check_host(node: &Socket, plan: &host::Plan, missing: &mut Vec<String>) -> Result<(), NetError> {
    let found = all_routes(node)?;
    let exists =
        |route: &Route| found.iter().any(|found| found.route.dst == route.dst && found.route.link == route.link);
    let lost = plan.routes.iter().filter(|route| !exists(route));
    missing.extend(lost.map(|route| format!("the node has no {} on this link", route.describe())));
    for neighbour in &plan.neighbours {
        if !Neighbour::list(node, neighbour.link)?.contains(neighbour) {
            missing.push(format!("the node has lost neighbour {}", neighbour.address));
        }
    }
    Ok(())
}

fn check_proxies(node: &Socket, net: &PodNet, missing: &mut Vec<String>) -> Result<(), NetError> {
    let uplink = uplink::select(node, net)?;
    let found = Proxy::list_ours(node)?;
    let lost = net.ips().filter(|&address| !found.contains(&Proxy { address, link: uplink.index.0 }));
    missing.extend(lost.map(|address| format!("the node does not answer for {address} on {}", uplink.name)));
    Ok(())
}

fn all_routes(socket: &Socket) -> Result<Vec<FoundRoute>, NetError> {
    let mut found = FoundRoute::list(socket, AddressFamily::Inet, None, true)?;
    found.extend(FoundRoute::list(socket, AddressFamily::Inet6, None, true)?);
    Ok(found)
}
