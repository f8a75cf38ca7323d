//! The node's network for pods' links: veth pairs, host routes, and proxy ARP and NDP on the uplink.
//!
//! ```text
//!   pod's namespace                     node                                            LAN
//!  ┌──────────────────────┐   veth   ┌───────────────────────────────────────┐
//!  │ eth0 172.22.40.181/16│══════════│ hf…  ◀── 172.22.40.181/32 dev hf…      │
//!  │ default via 169.254. │          │      ◀── neighbour, permanent          │
//!  │   1.1 (permanent     │          │                                       │
//!  │   neighbour: hf…)    │          │ uplink: proxy neighbour 172.22.40.181 ─┼── ARP/NDP answered
//!  └──────────────────────┘          └───────────────────────────────────────┘   with the uplink's MAC
//! ```
//!
//! The pod's only neighbour is its node, and the LAN has the node's MAC for the pod's addresses. An address that moves
//! to another node gets another MAC, which [`Network::advertise`] announces. A pod's first packet needs no ARP or NDP.
//!
//! The steps of an ADD, each undone by [`Network::delete`]:
//! 1. [`Network::create`] creates the pair. It needs no address, so it runs while the API server is asked for one.
//! 2. [`Network::configure`] sets addresses and routes in the pod. Packets still reach an older sandbox of the pod.
//! 3. The guard binds the addresses: from here on it drops packets from and to the older sandbox.
//! 4. [`Network::advertise`] adds neighbours and host routes on the node and proxies on the uplink, and sends
//!    gratuitous ARP and unsolicited neighbour advertisements. Packets reach the new sandbox as soon as its host route
//!    is there, which comes before the proxies.
//!
//! ```text
//!   create ──▶ configure ──▶ advertise ──▶ withdraw ──▶ delete
//!     │            │             │             │           └ veth (in the background)
//!     │            │             └─────────────┴ proxy_arp_ndp ─▶ host, announce · flush (in the background)
//!     │            └ pod, sysctl, uplink
//!     └ veth, netns                          all in the order of link_queue
//! ```
//!
//! After the reply, neighbours and tracked connections of the address's former holder are flushed.
//! [`Network::monitor_uplinks`] restores the proxies that the kernel flushes when an uplink goes down.
//!
//! All state is in the kernel: routes, neighbours and proxies have protocol number 72 (`ip route show proto 72`, `ip
//! neigh show proxy`), and links have their owner in the alias (`ip link`). After a restart [`Network::links`] reads it
//! back.
//!
//! Known limits: broadcast and multicast of the LAN do not reach a pod. The kernel does not answer ARP probes (RFC
//! 5227, sender 0.0.0.0) for a proxied address. A packet filter that drops forwarded packets by default has to accept
//! those of pods.

mod address;
mod announce;
mod blocking;
mod check;
mod conntrack;
mod errno;
mod error;
mod flush;
mod host;
mod link;
mod link_attrs;
mod link_queue;
mod neighbour;
mod netlink;
mod netns;
mod network;
mod pod;
mod poll;
mod protocol;
mod proxy_arp_ndp;
mod route;
mod sysctl;
mod uplink;
mod uplink_monitor;
mod veth;

pub use self::{
    error::NetError,
    link::{ConfiguredLink, HostLink, LinkSpec, PodAddress, PodLink, PodNet, Uplink},
    netns::Netns,
    network::Network,
};
