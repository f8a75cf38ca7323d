//! The node's network: the operations on pods' links.

use std::{net::IpAddr, sync::Arc};

use holdfast_core::id::{IfIndex, IfName};
use rtnetlink::LinkUnspec;
use tokio::runtime::Handle;

use super::{
    announce,
    blocking::blocking,
    check,
    error::NetError,
    flush::Flusher,
    host,
    link::{ConfiguredLink, HostLink, LinkSpec, PodLink, PodNet, Uplink},
    link_attrs::set_link,
    link_queue::{LinkQueue, Operation},
    netlink::{NODE, Socket},
    netns::Netns,
    pod,
    proxy_arp_ndp::{ProxyArpNdp, Withdrawn},
    sysctl, uplink, veth,
};

/// The node's network. It is cheap to clone, and all clones share one state. Its methods run on the runtime's blocking
/// threads, in the network namespace that the runtime was started in.
#[derive(Debug, Clone)]
pub struct Network {
    proxy_arp_ndp: Arc<ProxyArpNdp>,
    link_queue: Arc<LinkQueue>,
    flusher: Arc<Flusher>,
}

impl Network {
    /// Returns the network of the calling thread's namespace. Fails if the kernel refuses netlink or packet sockets.
    pub fn open() -> Result<Self, NetError> {
        Socket::open(NODE)?;
        let proxy_arp_ndp = Arc::new(ProxyArpNdp::open()?);
        Ok(Self { flusher: Arc::new(Flusher::new(proxy_arp_ndp.clone())), proxy_arp_ndp, link_queue: Arc::default() })
    }

    /// Sets the node's sysctls: forwarding for both families and proxy NDP. Interfaces that accept router
    /// advertisements now go on accepting them. Call it once, at start.
    pub async fn prepare_node(&self) -> Result<(), NetError> {
        blocking(sysctl::prepare_node).await
    }

    /// Creates the pair with the pod end in the pod's namespace, down. A repeated call for the same container and
    /// namespace returns the same link. On an error nothing is left.
    pub async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError> {
        let spec = spec.clone();
        let lock = self.link_queue.enqueue(&spec.container.host_link(&spec.ifname), Operation::Setup);
        blocking(move || {
            lock.wait();
            veth::create(&Socket::open(NODE)?, &spec)
        })
        .await
    }

    /// Sets addresses, next hop, routes and MTU in the pod, and the sysctls of the uplink. Returns when the link is
    /// running and the pod accepts packets. The pod's addresses are not routed to the link yet; an older link with
    /// these addresses keeps them. On an error the caller deletes the link, which undoes all changes.
    pub async fn configure(&self, link: &PodLink, net: &PodNet) -> Result<ConfiguredLink, NetError> {
        let (link, net, proxy_arp_ndp) = (link.clone(), net.clone(), self.proxy_arp_ndp.clone());
        let lock = self.link_queue.enqueue(&link.host_name, Operation::Setup);
        blocking(move || {
            lock.wait();
            configure(&proxy_arp_ndp, &link, &net)
        })
        .await
    }

    /// Routes the pod's addresses to this link, away from an older one, answers for them on the uplink, and announces
    /// them: at once, and three more times within two seconds for as long as this link has the addresses.
    pub async fn advertise(&self, link: &PodLink, net: &PodNet, uplink: &Uplink) -> Result<(), NetError> {
        let (network, pod_link, net, to) = (self.clone(), link.clone(), net.clone(), uplink.clone());
        let addresses: Vec<_> = net.ips().collect();
        let lock = self.link_queue.enqueue(&link.host_name, Operation::Setup);
        let advertised = blocking(move || {
            lock.wait();
            let moved = network.proxy_arp_ndp.advertise(&Socket::open(NODE)?, &pod_link, &net, &to)?;
            network.flusher.flush(moved);
            Ok(())
        });
        advertised.await?;
        let (network, name, uplink) = (self.clone(), link.host_name.clone(), uplink.clone());
        tokio::spawn(async move { announce::repeat(|| network.announce(&name, &addresses, &uplink)).await });
        Ok(())
    }

    /// Routes addresses to a link that had them before and still exists, as [`advertise`](Self::advertise) does for a
    /// new link: the records name it as their holder. While the uplink is down the addresses are routed only; they are
    /// answered for when it comes up.
    pub async fn readvertise(&self, link: &HostLink, addresses: &[IpAddr]) -> Result<(), NetError> {
        let (network, link, addresses) = (self.clone(), link.clone(), addresses.to_vec());
        let lock = self.link_queue.enqueue(&link.name, Operation::Setup);
        blocking(move || {
            lock.wait();
            let moved = network.proxy_arp_ndp.readvertise(&Socket::open(NODE)?, &link, &addresses)?;
            network.flusher.flush(moved);
            Ok(())
        })
        .await
    }

    /// Announces once those of the addresses that this link is advertised with, and returns whether there are any.
    async fn announce(&self, host_name: &IfName, addresses: &[IpAddr], uplink: &Uplink) -> Result<bool, NetError> {
        let (name, addresses, uplink) = (host_name.clone(), addresses.to_vec(), uplink.clone());
        let proxy_arp_ndp = self.proxy_arp_ndp.clone();
        blocking(move || proxy_arp_ndp.announce(&name, &addresses, &uplink)).await
    }

    /// Compares link, addresses, routes, neighbours and proxies with the configuration. [`NetError::Drift`] contains
    /// every difference.
    pub async fn check(&self, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
        let (spec, net) = (spec.clone(), net.clone());
        blocking(move || check::check(&Socket::open(NODE)?, &spec, &net)).await
    }

    /// Stops routing to a link and answering for it, and returns the addresses that it had. The link itself stays. For
    /// a link that is gone, these are the addresses that it was advertised with.
    pub async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError> {
        let (name, network) = (host_name.clone(), self.clone());
        let lock = self.link_queue.enqueue(host_name, Operation::Teardown);
        blocking(move || {
            lock.wait();
            Ok(network.withdraw_blocking(&name)?.addresses)
        })
        .await
    }

    /// Withdraws and deletes a link. When this returns, the node neither answers for its addresses nor routes to it;
    /// the kernel unregisters the interfaces in the background, in some 20 ms ([`wait_deleted`](Self::wait_deleted)
    /// waits for that). For a link that is gone, the remains of it on the node are removed.
    pub async fn delete(&self, host_name: &IfName) -> Result<(), NetError> {
        let (name, network) = (host_name.clone(), self.clone());
        // The ticket is taken before any change, so that an ADD that follows does not take the link over.
        let lock = self.link_queue.enqueue(host_name, Operation::Teardown);
        blocking(move || {
            lock.wait();
            if let Some(index) = network.withdraw_blocking(&name)?.index {
                // It is spawned here, so that it runs even if the caller has dropped the future.
                Handle::current().spawn_blocking(move || lock.delete_link(index));
            }
            Ok(())
        })
        .await
    }

    /// Waits until the kernel has unregistered a link that was deleted.
    pub async fn wait_deleted(&self, host_name: &IfName) -> Result<(), NetError> {
        let lock = self.link_queue.enqueue(host_name, Operation::Setup);
        blocking(move || {
            lock.wait();
            Ok(())
        })
        .await
    }

    /// Returns the interface that leads to the LAN of these addresses.
    pub async fn uplink(&self, net: &PodNet) -> Result<Uplink, NetError> {
        let net = net.clone();
        blocking(move || uplink::select(&Socket::open(NODE)?, &net)).await
    }

    /// Returns true if an address is advertised on the interface of that name.
    pub(super) fn is_uplink(&self, name: &str) -> bool {
        self.proxy_arp_ndp.is_uplink(name)
    }

    fn withdraw_blocking(&self, host_name: &IfName) -> Result<Withdrawn, NetError> {
        let withdrawn = self.proxy_arp_ndp.withdraw(&Socket::open(NODE)?, host_name)?;
        self.flusher.flush(withdrawn.addresses.iter().chain(&withdrawn.pruned).copied());
        Ok(withdrawn)
    }

    /// Waits until the work in the background has ended: deletions of links, and flushes of addresses that moved.
    pub async fn wait_idle(&self) -> Result<(), NetError> {
        let network = self.clone();
        blocking(move || {
            network.link_queue.wait_idle();
            network.flusher.wait_idle();
            Ok(())
        })
        .await
    }

    /// Returns every link of ours on the node, also those that an earlier agent created.
    pub async fn links(&self) -> Result<Vec<HostLink>, NetError> {
        blocking(|| host::links(&Socket::open(NODE)?)).await
    }

    /// Returns the link of ours whose host end has this index on the node; `None` if there is no such link.
    pub async fn link_by_index(&self, index: IfIndex) -> Result<Option<HostLink>, NetError> {
        Ok(self.links().await?.into_iter().find(|link| link.index == index))
    }

    /// Removes proxies for addresses that no link of ours has, and returns the addresses. They remain when a pod's
    /// namespace goes without a DEL.
    pub async fn prune_proxies(&self) -> Result<Vec<IpAddr>, NetError> {
        let network = self.clone();
        blocking(move || {
            let pruned = network.proxy_arp_ndp.prune(&Socket::open(NODE)?)?;
            network.flusher.flush(pruned.iter().copied());
            Ok(pruned)
        })
        .await
    }

    /// Adds and announces again the proxies that the kernel flushed when an uplink went down, and returns their
    /// addresses. After a restart of the agent it also reads back which link each address is advertised with, and on
    /// which uplink.
    pub async fn restore_proxies(&self) -> Result<Vec<IpAddr>, NetError> {
        let proxy_arp_ndp = self.proxy_arp_ndp.clone();
        blocking(move || proxy_arp_ndp.restore(&Socket::open(NODE)?)).await
    }
}

fn configure(proxy_arp_ndp: &ProxyArpNdp, link: &PodLink, net: &PodNet) -> Result<ConfiguredLink, NetError> {
    let plan = pod::Plan::new(link, net)?;
    let netns = Netns::open(&link.spec.netns)?;
    let node = Socket::open(NODE)?;
    let uplink = uplink::select(&node, net)?;
    let mtu = link.spec.mtu.unwrap_or(uplink.mtu);
    let new_mtu = (mtu != link.mtu).then_some(mtu);
    let in_pod = plan.apply(link, &netns, new_mtu)?;
    if let Some(mtu) = new_mtu {
        let message = LinkUnspec::new_with_index(link.host_index.0).mtu(mtu).build();
        node.commit(vec![set_link(message, format!("set the MTU of {} to {mtu}", link.host_name))])?;
    }
    proxy_arp_ndp.prepare(&uplink)?;
    if plan.has_v6() {
        sysctl::enable_ipv6(link.host_name.as_str())?;
    }
    veth::wait_until_running(&node, link.host_index.0)?;
    plan.wait_until_local(&in_pod)?;
    Ok(ConfiguredLink { uplink, mtu })
}
