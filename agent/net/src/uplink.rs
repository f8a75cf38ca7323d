//! Which interface of the node leads to the pods' LAN.

use std::{cmp::Reverse, net::IpAddr};

use holdfast_core::id::IfIndex;
use rtnetlink::packet_route::AddressFamily;

use super::{
    NetError, PodNet, Uplink,
    host::routes,
    message::{Address, LinkAttrs},
    netlink::Socket,
    route::{FoundRoute, Route},
    veth::{find, find_index, owner},
};

/// The configuration's `master`; else the interface that has an address in the pods' subnet; else the default
/// route's.
pub(super) fn choose(node: &Socket, net: &PodNet) -> Result<Uplink, NetError> {
    if let Some(master) = &net.master {
        let reason = "the configuration names it as \"master\", and this node has no such interface";
        let missing = || NetError::BadUplink { name: master.to_string(), reason };
        return ethernet(&find(node, master)?.ok_or_else(missing)?);
    }
    let mut candidates = in_subnet(node, net)?;
    if candidates.is_empty() {
        candidates = default_routes(node, net)?;
    }
    for index in candidates {
        // An interface may go between two questions; a pod's link is never the way out, nor is one without a MAC
        // such as `lo`, which may hold an address of the subnet for a load balancer.
        let fits = |attrs: &LinkAttrs| owner(&attrs.alias).is_none() && attrs.mac.is_some_and(|mac| mac.0 != [0; 6]);
        if let Some(attrs) = find_index(node, index)?.filter(fits) {
            return ethernet(&attrs);
        }
    }
    let addresses: Vec<_> = net.addresses.iter().map(|address| address.address.to_string()).collect();
    Err(NetError::NoUplink { addresses: addresses.join(", ") })
}

/// An interface as an uplink.
pub(super) fn ethernet(attrs: &LinkAttrs) -> Result<Uplink, NetError> {
    let bad = |reason| NetError::BadUplink { name: attrs.name.clone(), reason };
    let mac = attrs.mac.ok_or_else(|| bad("it is no Ethernet, so nothing can be answered there for a pod"))?;
    let name = attrs.name.parse().map_err(|_| bad("its name is no interface's name"))?;
    Ok(Uplink { name, index: IfIndex(attrs.index), mac, mtu: attrs.mtu })
}

/// Interfaces with an address in a subnet of the pod's, in the order of the pod's addresses and the narrowest
/// first. Either side may have the narrower idea of the subnet.
fn in_subnet(node: &Socket, net: &PodNet) -> Result<Vec<u32>, NetError> {
    let found = node.dump(&Address::all(AddressFamily::Unspec), "list addresses")?;
    let found: Vec<_> = found.iter().filter_map(Address::parse).collect();
    let matches = net.addresses.iter().flat_map(|wanted| {
        let inside = |found: &&Address| {
            wanted.address.contains(&found.address.addr()) || found.address.contains(&wanted.address.addr())
        };
        let mut matches: Vec<_> = found.iter().filter(inside).collect();
        matches.sort_by_key(|found| Reverse(found.address.prefix_len()));
        matches.into_iter().map(|found| found.link)
    });
    Ok(matches.collect())
}

/// Interfaces of default routes, best metric first, of the family of the pod's first address first.
fn default_routes(node: &Socket, net: &PodNet) -> Result<Vec<u32>, NetError> {
    let mut found = Vec::new();
    let v4_first = net.ips().next().is_none_or(|ip: IpAddr| ip.is_ipv4());
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    for family in if v4_first { families } else { [families[1], families[0]] } {
        let mut defaults: Vec<FoundRoute> = routes(node, &Route::all(family, None, false))?;
        defaults.retain(|found| found.route.dst.prefix_len() == 0 && found.route.link != 0);
        defaults.sort_by_key(|found| found.metric);
        found.extend(defaults.iter().map(|found| found.route.link));
    }
    Ok(found)
}
