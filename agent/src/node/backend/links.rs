//! The node's links.

use std::net::IpAddr;

use async_trait::async_trait;
use holdfast_core::id::{IfIndex, IfName};
use holdfast_net::{ConfiguredLink, HostLink, LinkSpec, NetError, Network, PodLink, PodNet, Uplink};

/// Pods' links on the node and what leads to them. The methods are those of [`Network`], which says more of each.
#[async_trait]
pub trait Links: Send + Sync {
    /// Makes a pair, the pod end in the pod's namespace and down.
    async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError>;

    /// Gives the pod its addresses and routes, without leading anything to it yet.
    async fn configure(&self, link: &PodLink, net: &PodNet) -> Result<ConfiguredLink, NetError>;

    /// Leads the pod's addresses to the link and tells the LAN.
    async fn advertise(&self, link: &PodLink, net: &PodNet, uplink: &Uplink) -> Result<(), NetError>;

    /// Leads addresses to a link that had them before.
    async fn readvertise(&self, link: &HostLink, addresses: &[IpAddr]) -> Result<(), NetError>;

    /// Stops routing to a link and answering for its addresses, which are returned.
    async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError>;

    /// Withdraws a link and begins to remove it. No error if there is none.
    async fn delete(&self, host_name: &IfName) -> Result<(), NetError>;

    /// Waits until a link that was deleted is gone.
    async fn wait_deleted(&self, host_name: &IfName) -> Result<(), NetError>;

    /// Returns [`NetError::Drift`] if a link is not as it was made.
    async fn check(&self, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError>;

    /// Returns every link of ours on the node.
    async fn links(&self) -> Result<Vec<HostLink>, NetError>;

    /// Returns the link of ours with this index.
    async fn link_by_index(&self, index: IfIndex) -> Result<Option<HostLink>, NetError>;

    /// Returns the interface that leads to the LAN of these addresses.
    async fn uplink(&self, net: &PodNet) -> Result<Uplink, NetError>;

    /// Removes proxies that no link of ours stands behind, and returns their addresses.
    async fn prune_proxies(&self) -> Result<Vec<IpAddr>, NetError>;
}

#[async_trait]
impl Links for Network {
    async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError> {
        self.create(spec).await
    }

    async fn configure(&self, link: &PodLink, net: &PodNet) -> Result<ConfiguredLink, NetError> {
        self.configure(link, net).await
    }

    async fn advertise(&self, link: &PodLink, net: &PodNet, uplink: &Uplink) -> Result<(), NetError> {
        self.advertise(link, net, uplink).await
    }

    async fn readvertise(&self, link: &HostLink, addresses: &[IpAddr]) -> Result<(), NetError> {
        self.readvertise(link, addresses).await
    }

    async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError> {
        self.withdraw(host_name).await
    }

    async fn delete(&self, host_name: &IfName) -> Result<(), NetError> {
        self.delete(host_name).await
    }

    async fn wait_deleted(&self, host_name: &IfName) -> Result<(), NetError> {
        self.wait_deleted(host_name).await
    }

    async fn check(&self, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
        self.check(spec, net).await
    }

    async fn links(&self) -> Result<Vec<HostLink>, NetError> {
        self.links().await
    }

    async fn link_by_index(&self, index: IfIndex) -> Result<Option<HostLink>, NetError> {
        self.link_by_index(index).await
    }

    async fn uplink(&self, net: &PodNet) -> Result<Uplink, NetError> {
        self.uplink(net).await
    }

    async fn prune_proxies(&self) -> Result<Vec<IpAddr>, NetError> {
        self.prune_proxies().await
    }
}
