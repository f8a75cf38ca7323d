//! What is asked for, and what was made.

use std::{net::IpAddr, path::PathBuf};

use holdfast_core::{
    id::{ContainerId, IfIndex, IfName, PodName},
    mac::Mac,
};
use ipnet::IpNet;

/// The link a pod is to get. Nothing in it depends on addresses: the link can be made while they are still asked
/// for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// The sandbox.
    pub container: ContainerId,
    /// Its pod, for people and messages.
    pub pod: PodName,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
    /// `mtu` of the configuration; absent: the uplink's, when the link is configured.
    pub mtu: Option<u32>,
}

/// What the link is to carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNet {
    /// The addresses; the first of each family is the source of what the pod sends.
    pub addresses: Vec<PodAddress>,
    /// More routes. The pod's next hop is always its node, which has the last word on where a packet goes; a
    /// gateway given here is not the pod's next hop.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// Whether the pod's default routes go this way (not with `clean_gateway`, nor on a second interface).
    pub default_route: bool,
    /// `master` of the configuration; absent: the interface in the addresses' subnet, else the default route's.
    pub master: Option<IfName>,
}

/// An address of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddress {
    /// With the prefix length of the pool's subnet: `172.22.40.181/16`.
    pub address: IpNet,
    /// The pool's gateway, for the result; a pod in this mode does not use it.
    pub gateway: Option<IpAddr>,
}

impl PodNet {
    /// The addresses alone.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|address| address.address.addr())
    }
}

/// A pod's link, as made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// What it was made from.
    pub spec: LinkSpec,
    /// The host end's name, [`ContainerId::host_link`].
    pub host_name: IfName,
    /// The host end's number on the node.
    pub host_index: IfIndex,
    /// The host end's hardware address.
    pub host_mac: Mac,
    /// The pod end's number in its namespace.
    pub pod_index: IfIndex,
    /// The pod end's hardware address.
    pub pod_mac: Mac,
    /// Both ends' MTU at the time of making; [`Network::configure`](super::Network::configure) may change it to the
    /// uplink's, and gives it back.
    pub mtu: u32,
}

/// The node's way to the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// Its number.
    pub index: IfIndex,
    /// Its hardware address, which the LAN sees as the pods'.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
}

/// A configured link: where it leads, and how wide it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The uplink chosen.
    pub uplink: Uplink,
    /// The link's MTU.
    pub mtu: u32,
}

/// A link of ours that was found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// The host end's name.
    pub name: IfName,
    /// The host end's number.
    pub index: IfIndex,
    /// The host end's hardware address.
    pub host_mac: Mac,
    /// The pod end's hardware address.
    pub pod_mac: Mac,
    /// The sandbox it was made for.
    pub container: ContainerId,
    /// The interface's name in the pod.
    pub ifname: IfName,
    /// The pod it was made for; absent when its name was too long for the link's alias.
    pub pod: Option<PodName>,
    /// The addresses that the node routes to it. None: not advertised yet, or withdrawn.
    pub addresses: Vec<IpAddr>,
}
