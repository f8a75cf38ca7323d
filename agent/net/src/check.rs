//! CHECK: what ought to be, against what is.

use holdfast_core::mac::Mac;
use rtnetlink::packet_route::AddressFamily;

use super::{
    LinkSpec, NetError, Netns, PodLink, PodNet, host,
    message::{Address, LinkAttrs},
    neighbour::{Neighbour, Proxy},
    netlink::Socket,
    pod,
    route::{FoundRoute, Route},
    uplink, veth,
};

/// Compares all that `create`, `configure` and `advertise` make. Reads only.
pub(super) fn check(node: &Socket, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
    let mut missing = Vec::new();
    let netns = Netns::open(&spec.netns)?;
    let inside = netns.socket()?;
    if let Some(link) = check_links(node, &inside, spec, &mut missing)? {
        check_pod(&inside, &pod::Plan::new(&link, net)?, &mut missing)?;
        check_host(node, &host::Plan::new(&link, net), &mut missing)?;
        check_proxies(node, net, &mut missing)?;
    }
    if missing.is_empty() { Ok(()) } else { Err(NetError::Drift { pod: spec.pod.clone(), missing }) }
}

/// Both ends, up, and of one pair; without them there is nothing else to look at.
fn check_links(
    node: &Socket,
    inside: &Socket,
    spec: &LinkSpec,
    missing: &mut Vec<String>,
) -> Result<Option<PodLink>, NetError> {
    let host_name = spec.container.host_link(&spec.ifname);
    let host = veth::find(node, &host_name)?;
    let pod = veth::find(inside, &spec.ifname)?;
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
        host_index: holdfast_core::id::IfIndex(host.index),
        host_mac: Mac::of_host(&host_name),
        pod_index: holdfast_core::id::IfIndex(pod.index),
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

fn check_pod(inside: &Socket, plan: &pod::Plan, missing: &mut Vec<String>) -> Result<(), NetError> {
    let found = inside.dump(&Address::all(AddressFamily::Unspec), "list addresses")?;
    let found: Vec<_> = found.iter().filter_map(Address::parse).collect();
    let lost = plan.addresses.iter().filter(|address| !found.contains(address));
    missing.extend(lost.map(|address| format!("the pod has lost address {}", address.address)));

    let found = all_routes(inside)?;
    // Where another interface of the pod has the same destination, ADD left it that one.
    let lost = plan.routes.iter().filter(|route| !found.iter().any(|found| found.route.dst == route.dst));
    missing.extend(lost.map(|route| format!("the pod has lost its {}", route.words())));

    for neighbour in &plan.neighbours {
        if !neighbours(inside, neighbour.link)?.contains(neighbour) {
            missing.push(format!("the pod has lost its next hop {}", neighbour.address));
        }
    }
    Ok(())
}

fn check_host(node: &Socket, plan: &host::Plan, missing: &mut Vec<String>) -> Result<(), NetError> {
    let found = all_routes(node)?;
    let leads_there =
        |route: &Route| found.iter().any(|found| found.route.dst == route.dst && found.route.link == route.link);
    let lost = plan.routes.iter().filter(|route| !leads_there(route));
    missing.extend(lost.map(|route| format!("the node has no {} on this link", route.words())));
    for neighbour in &plan.neighbours {
        if !neighbours(node, neighbour.link)?.contains(neighbour) {
            missing.push(format!("the node has lost neighbour {}", neighbour.address));
        }
    }
    Ok(())
}

fn check_proxies(node: &Socket, net: &PodNet, missing: &mut Vec<String>) -> Result<(), NetError> {
    let uplink = uplink::choose(node, net)?;
    let found = host::proxies(node)?;
    let lost = net.ips().filter(|&address| !found.contains(&Proxy { address, link: uplink.index.0 }));
    missing.extend(lost.map(|address| format!("the node does not answer for {address} on {}", uplink.name)));
    Ok(())
}

fn all_routes(socket: &Socket) -> Result<Vec<FoundRoute>, NetError> {
    let mut found = host::routes(socket, &Route::all(AddressFamily::Inet, None, true))?;
    found.extend(host::routes(socket, &Route::all(AddressFamily::Inet6, None, true))?);
    Ok(found)
}

fn neighbours(socket: &Socket, link: u32) -> Result<Vec<Neighbour>, NetError> {
    let found = socket.dump(&Neighbour::all(link), "list neighbours")?;
    Ok(found.iter().filter_map(Neighbour::parse).filter(|found| found.link == link).collect())
}
