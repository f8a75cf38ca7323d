//! The links of pods as values: requested, created and found.

use std::{net::IpAddr, path::PathBuf};

use holdfast_core::{
    id::{ContainerId, IfIndex, IfName, PodName},
    mac::Mac,
};
use ipnet::IpNet;

/// The link that a pod is to get. It contains no addresses, so the link can be created while the API server allocates
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// The container ID of the sandbox.
    pub container: ContainerId,
    /// The pod, for the link's alias and for messages.
    pub pod: PodName,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
    /// `mtu` of the configuration. If absent, the link gets the uplink's MTU when it is configured.
    pub mtu: Option<u32>,
}

/// The addresses and routes of a pod's link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNet {
    /// The addresses. The first one of each family is the preferred source address.
    pub addresses: Vec<PodAddress>,
    /// Additional routes: destination and gateway. The pod's next hop is always its node, never the gateway.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// The pod's default routes use this link (not with `clean_gateway`, nor on a second interface).
    pub default_route: bool,
    /// `master` of the configuration. If absent, the uplink is the interface in the addresses' subnet, else the default
    /// route's.
    pub master: Option<IfName>,
}

/// An address of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddress {
    /// The address with the prefix length of the pool's subnet: `172.22.40.181/16`.
    pub address: IpNet,
    /// The pool's gateway, for the CNI result. A pod in this mode does not use it.
    pub gateway: Option<IpAddr>,
}

impl PodNet {
    /// Returns the addresses without prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|address| address.address.addr())
    }
}

/// The link of a pod, as created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The request that it was created from.
    pub spec: LinkSpec,
    /// The host end's name, [`ContainerId::host_link`].
    pub host_name: IfName,
    /// The host end's index on the node.
    pub host_index: IfIndex,
    /// The host end's hardware address.
    pub host_mac: Mac,
    /// The pod end's index in its namespace.
    pub pod_index: IfIndex,
    /// The pod end's hardware address.
    pub pod_mac: Mac,
    /// Both ends' MTU at creation, in bytes. `Network::configure` may change it to the uplink's, and returns the new
    /// one.
    pub mtu: u32,
}

/// The node's interface that leads to the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's name.
    pub name: IfName,
    /// The interface's index.
    pub index: IfIndex,
    /// The hardware address, with which the node answers for the pods' addresses.
    pub mac: Mac,
    /// The MTU in bytes.
    pub mtu: u32,
}

/// The outcome of configuring a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredLink {
    /// The selected uplink.
    pub uplink: Uplink,
    /// The link's MTU in bytes.
    pub mtu: u32,
}

/// A link of ours on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// The host end's name.
    pub name: IfName,
    /// The host end's index on the node.
    pub index: IfIndex,
    /// The host end's hardware address.
    pub host_mac: Mac,
    /// The pod end's hardware address.
    pub pod_mac: Mac,
    /// The container ID of its sandbox.
    pub container: ContainerId,
    /// The interface's name in the pod.
    pub ifname: IfName,
    /// The pod; absent if its name was too long for the link's alias.
    pub pod: Option<PodName>,
    /// The addresses that the node routes to it. It is empty for a link that is not advertised yet or is withdrawn.
    pub addresses: Vec<IpAddr>,
}
