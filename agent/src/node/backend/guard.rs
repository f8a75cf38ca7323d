//! The guard: its programs, its maps and its events.

use std::{net::IpAddr, os::fd::AsFd, path::Path, time::Duration};

use async_trait::async_trait;
use holdfast_abi::Counter;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{IfIndex, IfName},
};
use holdfast_guard::{Binding, BindingEntry, Datapath, DatapathError, Events, GuardEvent, Link, LinkInfo};
use holdfast_net::{NetError, Netns};

use crate::node::error::NodeError;

/// The guard's programs and maps. The methods are those of [`Datapath`], which says more of each. Those that are not
/// `async` are a few system calls on maps.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Puts the programs on the host side of a pod's link, or updates what is known of it.
    fn attach_pod_link(&self, link: IfIndex, name: &IfName, info: LinkInfo) -> Result<(), DatapathError>;

    /// Puts the programs on an interface inside a pod's network namespace. Returns the number that stands for the link
    /// in bindings and events.
    async fn attach_inside(&self, netns: &Path, interface: &IfName, info: LinkInfo) -> Result<IfIndex, NodeError>;

    /// Takes the programs and all bindings off a link. No error if there is nothing.
    fn detach_pod_link(&self, link: IfIndex, name: &IfName) -> Result<(), DatapathError>;

    /// Watches what the LAN claims on an uplink.
    fn attach_uplink(&self, link: IfIndex, name: &IfName) -> Result<(), DatapathError>;

    /// As [`Self::attach_uplink`], and judges what pods send there.
    fn attach_shared_uplink(&self, link: IfIndex, name: &IfName) -> Result<(), DatapathError>;

    /// Sets what happens to foreign addresses on a link.
    fn set_mode(&self, link: IfIndex, mode: GuardMode) -> Result<(), DatapathError>;

    /// Makes an address current on a link, and stale on all others.
    fn bind(&self, entry: &BindingEntry) -> Result<(), DatapathError>;

    /// Makes an address stale on a link.
    fn mark_stale(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError>;

    /// Returns all bindings.
    fn bindings(&self) -> Result<Vec<Binding>, DatapathError>;

    /// Returns all links that carry the programs.
    fn links(&self) -> Result<Vec<Link>, DatapathError>;

    /// Has the end of a process reported as the end of a container's sandbox.
    fn watch_sandbox(&self, pid: u32, container_tag: u64) -> Result<(), DatapathError>;

    /// Stops watching a process.
    fn forget_sandbox(&self, pid: u32) -> Result<(), DatapathError>;

    /// Stops watching a process, unless it is watched for another container by now.
    fn forget_sandbox_of(&self, pid: u32, container_tag: u64) -> Result<(), DatapathError>;

    /// Returns the watched processes with their containers' tags.
    fn sandboxes(&self) -> Result<Vec<(u32, u64)>, DatapathError>;

    /// Returns whether the kernel reports the end of watched processes at all.
    fn watches_sandboxes(&self) -> bool;

    /// Returns the number of events that the kernel had no room for.
    fn events_lost(&self) -> Result<u64, DatapathError>;

    /// Returns how long ago an event happened.
    fn age(&self, event: &GuardEvent) -> Duration;
}

/// The stream of the guard's events.
#[async_trait]
pub trait EventSource: Send {
    /// Waits for the next event. [`DatapathError::Event`] is one that was skipped; after any other error no more will
    /// come.
    async fn next(&mut self) -> Result<GuardEvent, DatapathError>;
}

#[async_trait]
impl EventSource for Events {
    async fn next(&mut self) -> Result<GuardEvent, DatapathError> {
        self.next().await
    }
}

#[async_trait]
impl Guard for Datapath {
    fn attach_pod_link(&self, link: IfIndex, name: &IfName, info: LinkInfo) -> Result<(), DatapathError> {
        self.attach_pod_link(link, name, info)
    }

    async fn attach_inside(&self, netns: &Path, interface: &IfName, info: LinkInfo) -> Result<IfIndex, NodeError> {
        let (datapath, netns, interface) = (self.clone(), netns.to_owned(), interface.clone());
        let attached = tokio::task::spawn_blocking(move || {
            let netns = Netns::open(&netns)?;
            Ok(datapath.attach_inside(netns.as_fd(), &interface, info)?)
        });
        attached.await.map_err(|error| NetError::Worker(error.to_string()))?
    }

    fn detach_pod_link(&self, link: IfIndex, name: &IfName) -> Result<(), DatapathError> {
        self.detach_pod_link(link, name)
    }

    fn attach_uplink(&self, link: IfIndex, name: &IfName) -> Result<(), DatapathError> {
        self.attach_uplink(link, name)
    }

    fn attach_shared_uplink(&self, link: IfIndex, name: &IfName) -> Result<(), DatapathError> {
        self.attach_shared_uplink(link, name)
    }

    fn set_mode(&self, link: IfIndex, mode: GuardMode) -> Result<(), DatapathError> {
        self.set_mode(link, mode)
    }

    fn bind(&self, entry: &BindingEntry) -> Result<(), DatapathError> {
        self.bind(entry)
    }

    fn mark_stale(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        self.mark_stale(link, address)
    }

    fn bindings(&self) -> Result<Vec<Binding>, DatapathError> {
        self.bindings()
    }

    fn links(&self) -> Result<Vec<Link>, DatapathError> {
        self.links()
    }

    fn watch_sandbox(&self, pid: u32, container_tag: u64) -> Result<(), DatapathError> {
        self.watch_sandbox(pid, container_tag)
    }

    fn forget_sandbox(&self, pid: u32) -> Result<(), DatapathError> {
        self.forget_sandbox(pid)
    }

    fn forget_sandbox_of(&self, pid: u32, container_tag: u64) -> Result<(), DatapathError> {
        self.forget_sandbox_of(pid, container_tag)
    }

    fn sandboxes(&self) -> Result<Vec<(u32, u64)>, DatapathError> {
        self.sandboxes()
    }

    fn watches_sandboxes(&self) -> bool {
        self.watches_sandboxes()
    }

    fn events_lost(&self) -> Result<u64, DatapathError> {
        Ok(self.counters()?.get(Counter::EventsLost))
    }

    fn age(&self, event: &GuardEvent) -> Duration {
        event.age()
    }
}
