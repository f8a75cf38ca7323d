//! The addresses, neighbours and routes in a pod's namespace: one plan, which ADD applies and CHECK compares with.
//!
//! The pod's only neighbour is its node. The next hop has a permanent neighbour entry, so the first packet leaves
//! without ARP or NDP, and no host on the LAN can give the pod a wrong neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::LinkUnspec;

use super::{
    address::Address,
    error::NetError,
    link::{PodLink, PodNet},
    link_attrs::set_link,
    neighbour::Neighbour,
    netlink::{Intent, Socket},
    netns::Netns,
    poll::poll_until,
    route::Route,
    sysctl,
};

/// The IPv4 next hop of every pod. No machine has this address; its neighbour entry holds the MAC of the link's host
/// end.
const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 next hop of every pod.
const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The configuration of a pod's interface.
pub(super) struct Plan {
    pub(super) addresses: Vec<Address>,
    pub(super) neighbours: Vec<Neighbour>,
    pub(super) routes: Vec<Route>,
}

impl Plan {
    /// Returns the plan for a link. Fails with [`NetError::Invalid`] for addresses or routes that cannot work.
    pub(super) fn new(link: &PodLink, net: &PodNet) -> Result<Self, NetError> {
        let invalid = |reason| NetError::Invalid { pod: link.spec.pod.clone(), reason };
        if net.addresses.is_empty() {
            return Err(invalid("no address to configure".to_owned()));
        }
        let mut plan = Self { addresses: Vec::new(), neighbours: Vec::new(), routes: Vec::new() };
        let index = link.pod_index.0;
        for address in &net.addresses {
            validate(address.address).map_err(|reason| invalid(format!("address {}: {reason}", address.address)))?;
            plan.addresses.push(Address { address: address.address, link: index });
        }
        for v4 in [true, false] {
            let Some(source) = net.ips().find(|ip| ip.is_ipv4() == v4) else { continue };
            let next_hop = next_hop(v4);
            plan.neighbours.push(Neighbour { address: next_hop, link: index, mac: link.host_mac });
            let subnets = net.addresses.iter().map(|address| address.address.trunc());
            let extra = net.routes.iter().map(|(dst, _)| dst.trunc());
            let default = net.default_route.then(|| default_dst(v4));
            for dst in subnets.chain(default).chain(extra).filter(|dst| dst.addr().is_ipv4() == v4) {
                let route = Route { dst, via: Some(next_hop), link: index, source: Some(source) };
                // A subnet of one host (/32, /128) needs no route, and a destination gets one route only.
                let is_own = net.addresses.iter().any(|address| IpNet::from(address.address.addr()) == dst);
                if !is_own && !plan.routes.contains(&route) {
                    plan.routes.push(route);
                }
            }
        }
        for (dst, _) in &net.routes {
            if !net.ips().any(|ip| ip.is_ipv4() == dst.addr().is_ipv4()) {
                return Err(invalid(format!("route to {dst}: the pod has no address of that family")));
            }
        }
        Ok(plan)
    }

    /// Applies the plan in one `send` and returns the socket in the namespace. What exists already stays: another
    /// interface of the pod may have its default route, and a repeated ADD finds its own addresses and routes.
    pub(super) fn apply(&self, link: &PodLink, netns: &Netns, mtu: Option<u32>) -> Result<Socket, NetError> {
        let socket = self.open_socket(link, netns)?;
        let index = link.pod_index.0;
        let mut requests = vec![set_link(LinkUnspec::new_with_name("lo").up().build(), "bring up lo")];
        let mut end = LinkUnspec::new_with_index(index).up();
        if let Some(mtu) = mtu {
            end = end.mtu(mtu);
        }
        requests.push(set_link(end.build(), format!("bring up {}", link.spec.ifname)));
        requests.extend(self.addresses.iter().map(|address| address.ensure()));
        requests.extend(self.neighbours.iter().map(|neighbour| neighbour.replace()));
        requests.extend(self.routes.iter().map(|route| route.add(Intent::Ensure)));
        socket.commit(requests)?;
        Ok(socket)
    }

    /// Waits until the pod accepts packets for its IPv6 addresses. Even without duplicate address detection, a worker
    /// of the kernel adds an address's local route (`addrconf_dad_work`), and it has to wait for the RTNL mutex.
    pub(super) fn wait_until_local(&self, in_pod: &Socket) -> Result<(), NetError> {
        let addresses = self.addresses.iter().map(|address| address.address.addr());
        let lookups: Vec<_> = addresses.filter(IpAddr::is_ipv6).map(Route::lookup).collect();
        let are_local = || {
            let replies = in_pod.exchange(&lookups)?;
            Ok(replies.iter().all(|reply| reply.messages.iter().any(Route::is_local)))
        };
        if !poll_until(are_local)? {
            tracing::warn!(addresses = ?self.addresses, "a pod has no local routes for its addresses yet; its first packets may be lost");
        }
        Ok(())
    }

    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(|address| address.address.addr().is_ipv6())
    }

    /// Opens a socket in the pod's namespace and enables IPv6 on the interface if the pod has an IPv6 address: some
    /// runtimes disable it in each new namespace.
    fn open_socket(&self, link: &PodLink, netns: &Netns) -> Result<Socket, NetError> {
        netns.run(|| {
            if self.has_v6() {
                sysctl::enable_ipv6(link.spec.ifname.as_str())?;
            }
            Socket::open(format!("in {}", netns.path().display()))
        })?
    }
}

/// Returns the next hop of a family.
pub(super) fn next_hop(v4: bool) -> IpAddr {
    if v4 { NEXT_HOP_V4.into() } else { NEXT_HOP_V6.into() }
}

fn default_dst(v4: bool) -> IpNet {
    if v4 { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
}

/// Refuses addresses that no pod can use. The kernel would accept most of them.
fn validate(address: IpNet) -> Result<(), &'static str> {
    let ip = address.addr();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        return Err("it is not the address of a host");
    }
    if address.prefix_len() == 0 {
        return Err("its prefix length is 0");
    }
    match ip {
        IpAddr::V4(ip) if ip.is_link_local() || ip.is_broadcast() => Err("it is not routable"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err("it is not routable"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::{
        id::{IfIndex, PodName},
        mac::Mac,
    };

    use super::*;
    use crate::link::{LinkSpec, PodAddress};

    fn link() -> PodLink {
        PodLink {
            spec: LinkSpec {
                container: "c".parse().unwrap(),
                pod: PodName::new("default", "demo-0"),
                netns: "/run/netns/x".into(),
                ifname: "eth0".parse().unwrap(),
                mtu: None,
            },
            host_name: "hf0123456789ab".parse().unwrap(),
            host_index: IfIndex(7),
            host_mac: Mac([6, 0, 0, 0, 0, 1]),
            pod_index: IfIndex(2),
            pod_mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
        }
    }

    fn net(addresses: &[&str], routes: &[&str], default_route: bool) -> PodNet {
        let address = |text: &&str| PodAddress { address: text.parse().unwrap(), gateway: None };
        PodNet {
            addresses: addresses.iter().map(address).collect(),
            routes: routes.iter().map(|text| (text.parse().unwrap(), None)).collect(),
            default_route,
            master: None,
        }
    }

    fn routes(plan: &Plan) -> Vec<String> {
        plan.routes.iter().map(|route| route.describe()).collect()
    }

    #[test]
    fn routes_of_both_families_go_via_the_next_hop() {
        let plan = Plan::new(&link(), &net(&["172.22.40.181/16", "fd00:22::b5/64"], &["10.0.0.0/8"], true)).unwrap();
        assert_eq!(
            routes(&plan),
            [
                "route to 172.22.0.0/16 via 169.254.1.1",
                "route to 0.0.0.0/0 via 169.254.1.1",
                "route to 10.0.0.0/8 via 169.254.1.1",
                "route to fd00:22::/64 via fe80::1",
                "route to ::/0 via fe80::1",
            ]
        );
        assert!(plan.neighbours.iter().all(|neighbour| neighbour.mac == link().host_mac));
        assert_eq!(plan.neighbours.len(), 2);
    }

    #[test]
    fn without_a_default_route_only_the_subnet_is_routed() {
        let plan = Plan::new(&link(), &net(&["172.22.40.181/16"], &["172.22.0.0/16"], false)).unwrap();
        assert_eq!(routes(&plan), ["route to 172.22.0.0/16 via 169.254.1.1"]);
        assert!(Plan::new(&link(), &net(&["192.0.2.1/32"], &[], false)).unwrap().routes.is_empty());
    }

    #[test]
    fn invalid_addresses_and_routes_are_refused() {
        for (addresses, routes) in [
            (&[][..], &[][..]),
            (&["127.0.0.1/8"], &[]),
            (&["224.0.0.1/24"], &[]),
            (&["169.254.7.7/16"], &[]),
            (&["fe80::7/64"], &[]),
            (&["10.0.0.1/0"], &[]),
            (&["10.0.0.1/24"], &["fd00::/8"]),
        ] {
            let refused = Plan::new(&link(), &net(addresses, routes, true));
            assert!(matches!(refused, Err(NetError::Invalid { .. })), "{addresses:?} {routes:?}");
        }
    }
}
