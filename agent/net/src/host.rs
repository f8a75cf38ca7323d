//! The node's side: routes and neighbours towards the pods, and the proxies that answer for them on the LAN.
//!
//! What the kernel has is the record; nothing here is kept in files. The host route says which link has an address
//! now. When a newer sandbox of the same pod takes an address over, its host route replaces the old one, and from
//! then on the old link's removal no longer concerns the address: make before break.

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
    HostLink, NetError, PodLink, PodNet,
    message::LinkAttrs,
    neighbour::{Entry, Neighbour, Proxy},
    netlink::{Intent, Reply, Request, Socket, errno},
    route::{FoundRoute, Route},
    veth,
};

/// What stands on the node for a pod's addresses, apart from the proxies.
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

    /// Gives the addresses that did not lead to the link before. Neighbours first: with the route the address is live,
    /// and its first packet should find them.
    pub(super) fn make(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let lookups = self.routes.iter().map(|route| Route::lookup(route.dst.addr()));
        let neighbours = self.neighbours.iter().map(|neighbour| neighbour.replace());
        let routes = self.routes.iter().map(|route| route.make(Intent::Replace));
        let requests: Vec<_> = lookups.chain(neighbours).chain(routes).collect();
        let mut replies = node.exchange(&requests)?;
        let made = replies.split_off(self.routes.len());
        for (reply, request) in made.into_iter().zip(&requests[self.routes.len()..]) {
            reply.error.map_or(Ok(()), |source| Err(node.refused(request.what(), source)))?;
        }
        // An address that led nowhere is an error of its lookup alone.
        let led_here = |reply: &Reply, route: &Route| {
            reply.messages.iter().find_map(Route::leads_to).is_some_and(|link| link == route.link)
        };
        let moved = replies.iter().zip(&self.routes).filter(|(reply, route)| !led_here(reply, route));
        Ok(moved.map(|(_, route)| route.dst.addr()).collect())
    }
}

/// The routes that a dump names. A filter for a link that is gone, or for a table that nothing was ever put into,
/// finds none.
pub(super) fn routes(
    node: &Socket,
    message: &rtnetlink::packet_route::RouteNetlinkMessage,
) -> Result<Vec<FoundRoute>, NetError> {
    match node.dump(message, "list routes") {
        Ok(found) => Ok(found.iter().filter_map(FoundRoute::parse).collect()),
        Err(NetError::Refused { source, .. }) if matches!(errno(&source), Some(libc::ENODEV | libc::ENOENT)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Our host routes: of one link, or of all.
fn host_routes(node: &Socket, link: Option<u32>) -> Result<Vec<Route>, NetError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        found.extend(routes(node, &Route::all(family, link, true))?);
    }
    found.retain(|found| found.ours && link.is_none_or(|link| found.route.link == link));
    Ok(found.into_iter().map(|found| found.route).filter(|route| IpNet::from(route.dst.addr()) == route.dst).collect())
}

/// All proxies of ours.
pub(super) fn proxies(node: &Socket) -> Result<Vec<Proxy>, NetError> {
    Ok(node.dump(&Proxy::all(), "list proxied addresses")?.iter().filter_map(Proxy::parse_ours).collect())
}

/// The neighbour table: of one link, or all of it. A link that is gone has none.
pub(super) fn neighbours(node: &Socket, link: Option<u32>) -> Result<Vec<Entry>, NetError> {
    match node.dump(&Entry::all(link), "list neighbours") {
        Ok(found) => {
            let found = found.iter().filter_map(Entry::parse);
            Ok(found.filter(|entry| link.is_none_or(|link| entry.link == link)).collect())
        }
        Err(NetError::Refused { source, .. }) if errno(&source) == Some(libc::ENODEV) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Which link of ours each address leads to.
pub(super) fn holders(node: &Socket) -> Result<HashMap<IpAddr, u32>, NetError> {
    Ok(host_routes(node, None)?.into_iter().map(|route| (route.dst.addr(), route.link)).collect())
}

/// Takes away what leads to a link, and the proxies for it: from then on the LAN is no longer answered for its
/// addresses. Gives the addresses. Neighbours also go for those that a newer link has taken meanwhile.
pub(super) fn withdraw(node: &Socket, link: u32) -> Result<Vec<IpAddr>, NetError> {
    let routes = host_routes(node, Some(link))?;
    let addresses: Vec<_> = routes.iter().map(|route| route.dst.addr()).collect();
    let mut requests: Vec<Request> = Vec::new();
    if !addresses.is_empty() {
        let stale = proxies(node)?.into_iter().filter(|proxy| addresses.contains(&proxy.address));
        requests.extend(stale.map(Proxy::remove));
    }
    requests.extend(routes.into_iter().map(Route::remove));
    requests.extend(neighbours(node, Some(link))?.into_iter().filter(|entry| entry.ours).map(Entry::remove));
    node.commit(requests)?;
    Ok(addresses)
}

/// Removes proxies for addresses that no link of ours has. A link that went with its namespace takes its routes
/// along, but not these: they are on the uplink.
pub(super) fn prune_proxies(node: &Socket) -> Result<Vec<IpAddr>, NetError> {
    let live: HashSet<_> = host_routes(node, None)?.into_iter().map(|route| route.dst.addr()).collect();
    let stale: Vec<_> = proxies(node)?.into_iter().filter(|proxy| !live.contains(&proxy.address)).collect();
    let addresses = stale.iter().map(|proxy| proxy.address).collect();
    node.commit(stale.into_iter().map(Proxy::remove).collect())?;
    Ok(addresses)
}

/// Every link of ours on the node.
pub(super) fn links(node: &Socket) -> Result<Vec<HostLink>, NetError> {
    let routes = host_routes(node, None)?;
    let found = node.dump(&LinkAttrs::all(), "list interfaces")?;
    let links = found.iter().filter_map(LinkAttrs::parse).filter_map(|attrs| {
        let (container, ifname, pod) = veth::owner(&attrs.alias)?;
        let name: IfName = attrs.name.parse().ok()?;
        // Somebody may have renamed it or copied an alias; what does not agree with itself is not ours to touch.
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
