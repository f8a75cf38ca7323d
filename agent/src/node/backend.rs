//! The traits between the node's parts and their backends: the node's links, the guard, the records, its processes and
//! its network namespaces. Nothing else in [`node`](crate::node) touches the kernel or the API server, so that a test
//! can put fakes in the place of all of them.
//!
//! ```text
//! Links       veth pairs, routes, proxies    ─▶ holdfast-net's Network
//! Guard       programs, maps, bindings       ─▶ holdfast-guard's Datapath
//! Records     endpoints, claims, pods        ─▶ holdfast-ipam's Ipam
//! Processes   the process table              ─▶ /proc, pidfds
//! Namespaces  interfaces inside of pods      ─▶ network namespaces
//! ```
//!
//! A method that blocks for longer than a few system calls is `async`, and runs on a blocking thread in the
//! implementation for the kernel.

mod guard;
mod links;
mod namespaces;
mod processes;
mod records;

use std::sync::Arc;

use holdfast_guard::Datapath;
use holdfast_ipam::Ipam;
use holdfast_net::Network;

pub use self::{
    guard::{EventSource, Guard},
    links::Links,
    namespaces::{KernelNamespaces, Namespaces},
    processes::{ProcFs, Processes},
    records::Records,
};

/// One implementation of each trait. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Backends {
    /// The node's links.
    pub links: Arc<dyn Links>,
    /// The guard.
    pub guard: Arc<dyn Guard>,
    /// The records of the addresses' holders.
    pub records: Arc<dyn Records>,
    /// The node's processes.
    pub processes: Arc<dyn Processes>,
    /// The network namespaces of pods.
    pub namespaces: Arc<dyn Namespaces>,
}

impl Backends {
    /// Returns this node's own: its kernel, and the API server.
    pub fn of_node(network: Network, datapath: Datapath, ipam: Ipam) -> Self {
        Self {
            links: Arc::new(network),
            guard: Arc::new(datapath),
            records: Arc::new(ipam),
            processes: Arc::new(ProcFs),
            namespaces: Arc::new(KernelNamespaces),
        }
    }
}
