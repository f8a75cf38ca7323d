//! The node's side of pods' links: host routes, neighbours and proxies.
//!
//! The kernel's tables are the only record. A host route says which link has an address now. When a newer sandbox of
//! the same pod takes an address over, its host route replaces the old one, and from then on the removal of the old
//! link does not touch the address: make before break.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use holdfast_core::{
    id::{IfIndex, IfName},
    mac::Mac,
};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;

use super::{
    error::NetError,
    link::{HostLink, PodLink, PodNet},
    link_attrs::LinkAttrs,
    neighbour::{Entry, Neighbour, Proxy},
    netlink::{Intent, Reply, Request, Socket},
    route::{FoundRoute, Route},
    veth,
};

/// The routes and neighbours that the node has for a pod's addresses.
pub(super) struct Plan {
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neighbour>,
}

impl Plan {
    pub(super) fn new(link: &PodLink, net: &PodNet) -> Self {
        Self::of((link.host_index.0, link.pod_mac), net.ips())
    }

    pub(super) fn of((link, mac): (u32, Mac), addresses: impl Iterator<Item = IpAddr>) -> Self {
        let route = |ip: IpAddr| Route { dst: ip.into(), via: None, link, source: None };
        let neighbour = |address| Neighbour { address, link, mac };
        let (routes, neighbours) = addresses.map(|ip| (route(ip), neighbour(ip))).unzip();
        Self { routes, neighbours }
    }

    /// Adds neighbours and routes and returns the addresses that were not routed to the link before. Neighbours come
    /// first: the route makes the address live, and the first packet needs the neighbour.
    pub(super) fn apply(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let lookups = self.routes.iter().map(|route| Route::lookup(route.dst.addr()));
        let neighbours = self.neighbours.iter().map(|neighbour| neighbour.replace());
        let routes = self.routes.iter().map(|route| route.add(Intent::Replace));
        let requests: Vec<_> = lookups.chain(neighbours).chain(routes).collect();
        let mut replies = node.exchange(&requests)?;
        let added = replies.split_off(self.routes.len());
        for (reply, request) in added.into_iter().zip(&requests[self.routes.len()..]) {
            reply.error.map_or(Ok(()), |source| Err(node.refused(request.what(), source)))?;
        }
        // The lookup of an address without a route fails; that address has moved as well.
        let was_routed_here = |reply: &Reply, route: &Route| {
            reply.messages.iter().find_map(Route::oif).is_some_and(|link| link == route.link)
        };
        let moved = replies.iter().zip(&self.routes).filter(|(reply, route)| !was_routed_here(reply, route));
        Ok(moved.map(|(_, route)| route.dst.addr()).collect())
    }
}

/// Returns our host routes, of one link or of all.
fn host_routes(node: &Socket, link: Option<u32>) -> Result<Vec<Route>, NetError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        found.extend(FoundRoute::list(node, family, link, true)?);
    }
    found.retain(|found| found.ours && link.is_none_or(|link| found.route.link == link));
    Ok(found.into_iter().map(|found| found.route).filter(|route| IpNet::from(route.dst.addr()) == route.dst).collect())
}

/// Returns the index of the link that each address is routed to.
pub(super) fn holders(node: &Socket) -> Result<HashMap<IpAddr, u32>, NetError> {
    Ok(host_routes(node, None)?.into_iter().map(|route| (route.dst.addr(), route.link)).collect())
}

/// Removes the routes, neighbours and proxies of a link and returns the addresses that were routed to it. From then on
/// the node does not answer for them. Neighbours of addresses that a newer link has taken over go too.
pub(super) fn withdraw(node: &Socket, link: u32) -> Result<Vec<IpAddr>, NetError> {
    let routes = host_routes(node, Some(link))?;
    let addresses: Vec<_> = routes.iter().map(|route| route.dst.addr()).collect();
    let mut requests: Vec<Request> = Vec::new();
    if !addresses.is_empty() {
        let stale = Proxy::list_ours(node)?.into_iter().filter(|proxy| addresses.contains(&proxy.address));
        requests.extend(stale.map(Proxy::remove));
    }
    requests.extend(routes.into_iter().map(Route::remove));
    requests.extend(Entry::list(node, Some(link))?.into_iter().filter(|entry| entry.ours).map(Entry::remove));
    node.commit(requests)?;
    Ok(addresses)
}

/// Removes proxies for addresses that no link of ours has, and returns the addresses. The kernel removes the routes of
/// a link that goes with its namespace, but not the proxies, which are on the uplink.
pub(super) fn prune_proxies(node: &Socket) -> Result<Vec<IpAddr>, NetError> {
    let live: HashSet<_> = host_routes(node, None)?.into_iter().map(|route| route.dst.addr()).collect();
    let stale: Vec<_> = Proxy::list_ours(node)?.into_iter().filter(|proxy| !live.contains(&proxy.address)).collect();
    let addresses = stale.iter().map(|proxy| proxy.address).collect();
    node.commit(stale.into_iter().map(Proxy::remove).collect())?;
    Ok(addresses)
}

/// Returns every link of ours on the node.
pub(super) fn links(node: &Socket) -> Result<Vec<HostLink>, NetError> {
    let routes = host_routes(node, None)?;
    let links = LinkAttrs::list(node)?.into_iter().filter_map(|attrs| {
        let (container, ifname, pod) = veth::owner(&attrs.alias)?;
        let name: IfName = attrs.name.parse().ok()?;
        // An administrator can rename a link or copy an alias. A link whose name does not fit its alias is not ours.
        if container.host_link(&ifname) != name {
            return None;
        }
        let addresses = routes.iter().filter(|route| route.link == attrs.index).map(|route| route.dst.addr());
        Some(HostLink {
            index: IfIndex(attrs.index),
            host_mac: attrs.mac.unwrap_or(Mac([0; 6])),
            pod_mac: Mac::of_pod(&name),
            container,
            ifname,
            pod,
            addresses: addresses.collect(),
            name,
        })
    });
    Ok(links.collect())
}
