//! Selection of the uplink: the node's interface that leads to the pods' LAN.

use std::{cmp::Reverse, net::IpAddr};

use holdfast_core::id::IfIndex;
use rtnetlink::packet_route::AddressFamily;

use super::{
    address::Address,
    error::NetError,
    link::{PodNet, Uplink},
    link_attrs::LinkAttrs,
    netlink::Socket,
    route::FoundRoute,
    veth,
};

/// Returns the configuration's `master`; else the interface that has an address in the pod's subnet; else the interface
/// of the default route.
pub(super) fn select(node: &Socket, net: &PodNet) -> Result<Uplink, NetError> {
    if let Some(master) = &net.master {
        let reason = "the configuration names it as \"master\", and this node has no such interface";
        let missing = || NetError::BadUplink { name: master.to_string(), reason };
        return ethernet(&LinkAttrs::find(node, master)?.ok_or_else(missing)?);
    }
    let mut candidates = in_subnet(node, net)?;
    if candidates.is_empty() {
        candidates = default_routes(node, net)?;
    }
    for index in candidates {
        // A candidate may be gone by now. A pod's link is never the uplink. An interface without a MAC, such as `lo`,
        // may have an address of the subnet for a load balancer.
        let is_uplink =
            |attrs: &LinkAttrs| veth::owner(&attrs.alias).is_none() && attrs.mac.is_some_and(|mac| mac.0 != [0; 6]);
        if let Some(attrs) = LinkAttrs::find_index(node, index)?.filter(is_uplink) {
            return ethernet(&attrs);
        }
    }
    let addresses: Vec<_> = net.addresses.iter().map(|address| address.address.to_string()).collect();
    Err(NetError::NoUplink { addresses: addresses.join(", ") })
}

/// Returns an interface as an uplink. Fails if it is not an Ethernet interface.
pub(super) fn ethernet(attrs: &LinkAttrs) -> Result<Uplink, NetError> {
    let bad = |reason| NetError::BadUplink { name: attrs.name.clone(), reason };
    let mac =
        attrs.mac.ok_or_else(|| bad("it is not an Ethernet interface, so the node cannot answer ARP or NDP on it"))?;
    let name = attrs.name.parse().map_err(|_| bad("its name is not a valid interface name"))?;
    Ok(Uplink { name, index: IfIndex(attrs.index), mac, mtu: attrs.mtu })
}

/// Returns the interfaces that have an address in one of the pod's subnets, in the order of the pod's addresses, the
/// longest prefix first. The prefix of either side may be the longer one.
fn in_subnet(node: &Socket, net: &PodNet) -> Result<Vec<u32>, NetError> {
    let found = Address::list(node)?;
    let matches = net.addresses.iter().flat_map(|wanted| {
        let shares_subnet = |found: &&Address| {
            wanted.address.contains(&found.address.addr()) || found.address.contains(&wanted.address.addr())
        };
        let mut matches: Vec<_> = found.iter().filter(shares_subnet).collect();
        matches.sort_by_key(|found| Reverse(found.address.prefix_len()));
        matches.into_iter().map(|found| found.link)
    });
    Ok(matches.collect())
}

/// Returns the interfaces of default routes, by metric; the family of the pod's first address comes first.
fn default_routes(node: &Socket, net: &PodNet) -> Result<Vec<u32>, NetError> {
    let mut found = Vec::new();
    let v4_first = net.ips().next().is_none_or(|ip: IpAddr| ip.is_ipv4());
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    for family in if v4_first { families } else { [families[1], families[0]] } {
        let mut defaults = FoundRoute::list(node, family, None, false)?;
        defaults.retain(|found| found.route.dst.prefix_len() == 0 && found.route.link != 0);
        defaults.sort_by_key(|found| found.metric);
        found.extend(defaults.iter().map(|found| found.route.link));
    }
    Ok(found)
}
