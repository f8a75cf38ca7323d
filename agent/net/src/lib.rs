//! The node's network, as far as pods' links are concerned: mode `veth`, routed.
//!
//! ```text
//!   pod's namespace                     node                                            LAN
//!  ┌──────────────────────┐   veth   ┌───────────────────────────────────────┐
//!  │ eth0 172.22.40.181/16│══════════│ hf…  ◀── 172.22.40.181/32 dev hf…      │
//!  │ default via 169.254. │          │      ◀── neighbour, permanent          │
//!  │   1.1 (permanent     │          │                                       │
//!  │   neighbour: hf…)    │          │ uplink: proxy neighbour 172.22.40.181 ─┼── ARP/ND answered
//!  └──────────────────────┘          └───────────────────────────────────────┘   with the uplink's MAC
//! ```
//!
//! The pod's only neighbour is its node, and the LAN knows the pod by its node's MAC. So a pod that moves is a new
//! MAC for its address, which `advertise` announces; and no ARP or ND stands before a pod's first packet.
//!
//! The order of an ADD, each step undone by [`Network::delete`]:
//! 1. [`Network::create`]: the pair. Needs no address, so it can run while the API server is asked.
//! 2. [`Network::configure`]: addresses and routes in the pod, and all else that leaves an older sandbox of the pod as
//!    it is: packets still reach that one.
//! 3. (the guard binds the addresses: what the older sandbox sends, and what is sent to it, is dropped from here on)
//! 4. [`Network::advertise`]: host routes and neighbours on the node, proxies on the uplink, gratuitous ARP and unsolicited
//!    neighbour advertisements. Packets reach the new sandbox as soon as its route stands, which is the first thing.
//!
//! Afterwards, with nobody waiting, neighbours and tracked connections of the address's former holder are forgotten.
//!
//! [`Network::monitor_uplinks`] puts back what the kernel flushes when an uplink goes down.
//!
//! All state is the kernel's: routes, neighbours and proxies carry protocol number 72 (`ip route show proto 72`, `ip neigh
//! show proxy`), links their owner in the alias (`ip link`). After a restart [`Network::links`] reads it back.
//!
//! Known limits: LAN broadcast and multicast do not reach a pod; the kernel answers no ARP probe (RFC 5227, sender
//! 0.0.0.0) for a proxied address; a filter that drops forwarded packets by default has to let pods pass.

mod announce;
mod check;
mod conntrack;
mod error;
mod flush;
mod host;
mod link;
mod link_queue;
mod message;
mod neighbour;
mod netlink;
mod netns;
mod pod;
mod proxy_arp_ndp;
mod route;
mod sysctl;
mod uplink;
mod uplink_monitor;
mod veth;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_core::id::{IfIndex, IfName};
use rtnetlink::LinkUnspec;
use tokio::runtime::Handle;

pub use self::{
    error::NetError,
    link::{HostLink, LinkSpec, Placement, PodAddress, PodLink, PodNet, Uplink},
    netns::Netns,
    pod::{NEXT_HOP_V4, NEXT_HOP_V6},
};
use self::{
    flush::Flusher,
    link_queue::{LinkQueue, Operation},
    message::set_link,
    netlink::Socket,
    proxy_arp_ndp::{ProxyArpNdp, Withdrawn},
};

/// After the first announcement, these pauses and one more each: a switch or a host that was busy with the first.
const ANNOUNCE_AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// How often, and how many times, a worker of the kernel is waited for.
const KERNEL: (Duration, u32) = (Duration::from_micros(200), 500);

/// The node's network. Cheap to clone; all clones share one state. Its methods run on the runtime's blocking
/// threads, in the network namespace that the runtime was started in.
#[derive(Debug, Clone)]
pub struct Network {
    proxy_arp_ndp: Arc<ProxyArpNdp>,
    link_queue: Arc<LinkQueue>,
    flusher: Arc<Flusher>,
}

impl Network {
    /// The network of the namespace this process is in. Fails where netlink or packet sockets cannot be used at all.
    pub fn open() -> Result<Self, NetError> {
        Socket::open(NODE)?;
        let proxy_arp_ndp = Arc::new(ProxyArpNdp::open()?);
        Ok(Self { flusher: Arc::new(Flusher::new(proxy_arp_ndp.clone())), proxy_arp_ndp, link_queue: Arc::default() })
    }

    /// Makes the node route for its pods: forwarding for both families (router advertisements that are accepted
    /// now stay so) and neighbour proxying. Once, at start.
    pub async fn prepare_node(&self) -> Result<(), NetError> {
        blocking(sysctl::prepare_node).await
    }

    /// Makes the pair, the pod end in the pod's namespace and down. Repeated for the same container and
    /// namespace it gives the same link. On an error nothing is left.
    pub async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError> {
        let spec = spec.clone();
        let lock = self.link_queue.enqueue(&spec.container.host_link(&spec.ifname), Operation::Setup);
        blocking(move || {
            lock.wait();
            veth::create(&Socket::open(NODE)?, &spec)
        })
        .await
    }

    /// Addresses, next hop and routes in the pod, its MTU, and the uplink's settings; it ends when the link carries
    /// packets and the pod takes them. Nobody reaches the pod yet, and an older link with these addresses keeps them. On an error the caller
    /// deletes the link, which undoes all of it.
    pub async fn configure(&self, link: &PodLink, net: &PodNet) -> Result<Placement, NetError> {
        let (link, net, proxy_arp_ndp) = (link.clone(), net.clone(), self.proxy_arp_ndp.clone());
        let lock = self.link_queue.enqueue(&link.host_name, Operation::Setup);
        blocking(move || {
            lock.wait();
            configure(&proxy_arp_ndp, &link, &net)
        })
        .await
    }

    /// Leads the pod's addresses to this link, away from an older one; answers for them on the uplink; and tells the
    /// LAN: at once, and three times again within two seconds for as long as this link has the address.
    pub async fn advertise(&self, link: &PodLink, net: &PodNet, uplink: &Uplink) -> Result<(), NetError> {
        let (network, link, net, to) = (self.clone(), link.clone(), net.clone(), uplink.clone());
        let (name, addresses) = (link.host_name.clone(), net.ips().collect());
        let lock = self.link_queue.enqueue(&link.host_name, Operation::Setup);
        let advertised = blocking(move || {
            lock.wait();
            let moved = network.proxy_arp_ndp.advertise(&Socket::open(NODE)?, &link, &net, &to)?;
            network.flusher.flush(moved);
            Ok(())
        });
        advertised.await?;
        tokio::spawn(repeat(self.clone(), name, addresses, uplink.clone()));
        Ok(())
    }

    /// Leads addresses to a link that had them before and is there still, as [`advertise`](Self::advertise) does for a new one:
    /// it turns out to be their holder after all. An uplink that is down is answered on when it comes up.
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

    /// [`create`](Self::create), [`configure`](Self::configure) and [`advertise`](Self::advertise) in one, for whoever
    /// has nothing to do between them. On an error nothing is left.
    pub async fn add(&self, spec: &LinkSpec, net: &PodNet) -> Result<(PodLink, Placement), NetError> {
        let link = self.create(spec).await?;
        let rest = async {
            let placement = self.configure(&link, net).await?;
            self.advertise(&link, net, &placement.uplink).await.map(|()| placement)
        };
        match rest.await {
            Ok(placement) => Ok((link, placement)),
            Err(error) => {
                if let Err(undo) = self.delete(&link.host_name).await {
                    tracing::warn!(link = %link.host_name, %undo, "a link that could not be set up could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Tells the LAN again, once, about those of the addresses that this link is advertised with. Whether there are any.
    pub async fn announce(&self, host_name: &IfName, addresses: &[IpAddr], uplink: &Uplink) -> Result<bool, NetError> {
        let (name, addresses, uplink) = (host_name.clone(), addresses.to_vec(), uplink.clone());
        let proxy_arp_ndp = self.proxy_arp_ndp.clone();
        blocking(move || proxy_arp_ndp.announce(&name, &addresses, &uplink)).await
    }

    /// Compares link, addresses, routes, neighbours and proxies with what they should be;
    /// [`NetError::Drift`] names every difference.
    pub async fn check(&self, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
        let (spec, net) = (spec.clone(), net.clone());
        blocking(move || check::check(&Socket::open(NODE)?, &spec, &net)).await
    }

    /// Stops answering and routing for a link that stays: the address has a newer holder. Gives the addresses it
    /// had. A link that is gone has none but those that were advertised with it.
    pub async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError> {
        let (name, network) = (host_name.clone(), self.clone());
        let lock = self.link_queue.enqueue(host_name, Operation::Teardown);
        blocking(move || {
            lock.wait();
            Ok(network.withdraw_now(&name)?.addresses)
        })
        .await
    }

    /// Removes a link and all that leads to it. When this returns the LAN is no longer answered and nothing is
    /// routed there; the interfaces themselves, which take the kernel some 20 ms, go in the background
    /// ([`wait_idle`](Self::wait_idle) waits for them). A link that is gone is no error: what may be left of it goes.
    pub async fn delete(&self, host_name: &IfName) -> Result<(), NetError> {
        let (name, network) = (host_name.clone(), self.clone());
        // Before anything is taken away: an ADD that comes now must not take the link over.
        let lock = self.link_queue.enqueue(host_name, Operation::Teardown);
        blocking(move || {
            lock.wait();
            if let Some(index) = network.withdraw_now(&name)?.index {
                // From here, so that it happens even if the caller has gone.
                Handle::current().spawn_blocking(move || lock.delete_link(index));
            }
            Ok(())
        })
        .await
    }

    /// Waits until a link that was deleted is gone.
    pub async fn wait_deleted(&self, host_name: &IfName) -> Result<(), NetError> {
        let lock = self.link_queue.enqueue(host_name, Operation::Setup);
        blocking(move || {
            lock.wait();
            Ok(())
        })
        .await
    }

    /// The interface that leads to the LAN of these addresses.
    pub async fn uplink(&self, net: &PodNet) -> Result<Uplink, NetError> {
        let net = net.clone();
        blocking(move || uplink::choose(&Socket::open(NODE)?, &net)).await
    }

    fn withdraw_now(&self, host_name: &IfName) -> Result<Withdrawn, NetError> {
        let withdrawn = self.proxy_arp_ndp.withdraw(&Socket::open(NODE)?, host_name)?;
        self.flusher.flush(withdrawn.addresses.iter().chain(&withdrawn.pruned).copied());
        Ok(withdrawn)
    }

    /// Waits until every link that was deleted is gone, and every trace of addresses that moved.
    pub async fn wait_idle(&self) -> Result<(), NetError> {
        let network = self.clone();
        blocking(move || {
            network.link_queue.wait_idle();
            network.flusher.wait_idle();
            Ok(())
        })
        .await
    }

    /// Every link of ours on the node, whoever made it.
    pub async fn links(&self) -> Result<Vec<HostLink>, NetError> {
        blocking(|| host::links(&Socket::open(NODE)?)).await
    }

    /// Returns the link of ours whose host end has this index on the node; `None` if there is no such link.
    pub async fn link_by_index(&self, index: IfIndex) -> Result<Option<HostLink>, NetError> {
        Ok(self.links().await?.into_iter().find(|link| link.index == index))
    }

    /// Removes proxies that no link of ours stands behind: those of pods whose namespace went without a DEL.
    /// Gives their addresses.
    pub async fn prune_proxies(&self) -> Result<Vec<IpAddr>, NetError> {
        let network = self.clone();
        blocking(move || {
            let pruned = network.proxy_arp_ndp.prune(&Socket::open(NODE)?)?;
            network.flusher.flush(pruned.iter().copied());
            Ok(pruned)
        })
        .await
    }

    /// Puts back, and announces, proxies that the kernel has flushed because an uplink was down. Gives their
    /// addresses. After a restart it also learns which link is advertised where.
    pub async fn restore_proxies(&self) -> Result<Vec<IpAddr>, NetError> {
        let proxy_arp_ndp = self.proxy_arp_ndp.clone();
        blocking(move || proxy_arp_ndp.restore(&Socket::open(NODE)?)).await
    }
}

/// Where the node's sockets are, for messages.
const NODE: &str = "on this node";

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NetError::Worker(error.to_string()))?
}

fn configure(proxy_arp_ndp: &ProxyArpNdp, link: &PodLink, net: &PodNet) -> Result<Placement, NetError> {
    let inside = pod::Plan::new(link, net)?;
    let netns = Netns::open(&link.spec.netns)?;
    let node = Socket::open(NODE)?;
    let uplink = uplink::choose(&node, net)?;
    let mtu = link.spec.mtu.unwrap_or(uplink.mtu);
    let change = (mtu != link.mtu).then_some(mtu);
    let in_pod = inside.make(link, &netns, change)?;
    if let Some(mtu) = change {
        let message = LinkUnspec::new_with_index(link.host_index.0).mtu(mtu).build();
        node.commit(vec![set_link(message, format!("set the MTU of {} to {mtu}", link.host_name))])?;
    }
    proxy_arp_ndp.prepare(&uplink)?;
    if inside.has_v6() {
        sysctl::allow_v6(link.host_name.as_str())?;
    }
    veth::wait_until_running(&node, link.host_index.0)?;
    inside.wait_until_local(&in_pod)?;
    Ok(Placement { uplink, mtu })
}

async fn repeat(network: Network, name: IfName, addresses: Vec<IpAddr>, uplink: Uplink) {
    for pause in ANNOUNCE_AGAIN {
        tokio::time::sleep(pause).await;
        match network.announce(&name, &addresses, &uplink).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::debug!(%error, "an announcement could not be repeated"),
        }
    }
}

/// Waits for what a worker of the kernel does in its own time. False: it has taken its time too long.
fn wait_for(done: impl Fn() -> Result<bool, NetError>) -> Result<bool, NetError> {
    let (pause, tries) = KERNEL;
    for _ in 0..tries {
        if done()? {
            return Ok(true);
        }
        std::thread::sleep(pause);
    }
    Ok(false)
}

/// A panic elsewhere leaves what is guarded here as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
