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
//! MAC for its address, which `expose` announces; and no ARP or ND stands before a pod's first packet.
//!
//! The order of an ADD, each step undone by [`Network::delete`]:
//! 1. [`Network::create`]: the pair. Needs no address, so it can run while the API server is asked.
//! 2. [`Network::configure`]: addresses and routes in the pod, host routes on the node.
//! 3. (the guard binds the addresses)
//! 4. [`Network::expose`]: proxies on the uplink, gratuitous ARP and unsolicited neighbour advertisements.
//!
//! [`Network::keep_exposed`] puts back what the kernel flushes when an uplink goes down.
//!
//! All state is the kernel's: routes and proxies carry protocol number 72 (`ip route show proto 72`, `ip neigh show
//! proxy`), links their owner in the alias (`ip link`). After a restart [`Network::links`] reads it back.
//!
//! Known limits: LAN broadcast and multicast do not reach a pod; the kernel answers no ARP probe (RFC 5227, sender
//! 0.0.0.0) for a proxied address; a filter that drops forwarded packets by default has to let pods pass.

mod announce;
mod check;
mod error;
mod exposure;
mod host;
mod message;
mod neighbour;
mod netlink;
mod netns;
mod pod;
mod removal;
mod route;
mod setting;
mod spec;
mod uplink;
mod veth;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use holdfast_core::id::IfName;
use rtnetlink::{
    LinkUnspec, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys,
};
use tokio::runtime::Handle;

pub use self::{
    error::NetError,
    netns::Netns,
    pod::{NEXT_HOP_V4, NEXT_HOP_V6},
    spec::{HostLink, LinkSpec, Mac, Placement, PodAddress, PodLink, PodNet, Uplink},
};
use self::{
    exposure::Exposure,
    message::{LinkFacts, set_link},
    netlink::Socket,
    removal::Leaving,
};

/// After the first announcement, these pauses and one more each: a switch or a host that was busy with the first.
const ANNOUNCE_AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// Proxies are compared this often even if no interface was heard of: messages can be lost.
const RESTORE: Duration = Duration::from_secs(30);

/// The node's network. Cheap to clone; all clones share one state. Its methods run on the runtime's blocking
/// threads, in the network namespace that the runtime was started in.
#[derive(Debug, Clone)]
pub struct Network {
    exposure: Arc<Exposure>,
    leaving: Arc<Leaving>,
}

impl Network {
    /// The network of the namespace this process is in. Fails where netlink or packet sockets cannot be used at all.
    pub fn open() -> Result<Self, NetError> {
        Socket::open(NODE)?;
        Ok(Self { exposure: Arc::new(Exposure::open()?), leaving: Arc::default() })
    }

    /// Makes the node route for its pods: forwarding for both families (router advertisements that are accepted
    /// now stay so) and neighbour proxying. Once, at start.
    pub async fn prepare_node(&self) -> Result<(), NetError> {
        blocking(setting::prepare_node).await
    }

    /// Makes the pair, the pod end in the pod's namespace and down. Repeated for the same container and
    /// namespace it gives the same link. On an error nothing is left.
    pub async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError> {
        let (spec, leaving) = (spec.clone(), self.leaving.clone());
        blocking(move || {
            leaving.wait_for(&spec.container.host_link(&spec.ifname));
            veth::create(&Socket::open(NODE)?, &spec)
        })
        .await
    }

    /// Addresses, next hop and routes in the pod; host routes on the node. From here on the node and its other
    /// pods reach the pod; the LAN does not yet. On an error the caller deletes the link, which undoes all of it.
    pub async fn configure(&self, link: &PodLink, net: &PodNet) -> Result<Placement, NetError> {
        let (link, net, exposure) = (link.clone(), net.clone(), self.exposure.clone());
        blocking(move || configure(&exposure, &link, &net)).await
    }

    /// Answers on the uplink for the pod's addresses and tells the LAN: at once, and three times again within two
    /// seconds for as long as this link has the address.
    pub async fn expose(&self, link: &PodLink, net: &PodNet, uplink: &Uplink) -> Result<(), NetError> {
        let (name, addresses, uplink) = (link.host_name.clone(), net.ips().collect::<Vec<_>>(), uplink.clone());
        let (exposure, index) = (self.exposure.clone(), link.host_index.0);
        let announced = blocking(move || {
            let node = Socket::open(NODE)?;
            veth::wait_until_running(&node, index)?;
            exposure.expose(&node, &name, &addresses, &uplink)?;
            Ok((name, addresses, uplink))
        });
        let (name, addresses, uplink) = announced.await?;
        tokio::spawn(repeat(self.clone(), name, addresses, uplink));
        Ok(())
    }

    /// [`create`](Self::create), [`configure`](Self::configure) and [`expose`](Self::expose) in one, for whoever
    /// has nothing to do between them. On an error nothing is left.
    pub async fn add(&self, spec: &LinkSpec, net: &PodNet) -> Result<(PodLink, Placement), NetError> {
        let link = self.create(spec).await?;
        let rest = async {
            let placement = self.configure(&link, net).await?;
            self.expose(&link, net, &placement.uplink).await.map(|()| placement)
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

    /// Tells the LAN again, once, about those of the addresses that this link is exposed with. Whether there are any.
    pub async fn announce(&self, host_name: &IfName, addresses: &[IpAddr], uplink: &Uplink) -> Result<bool, NetError> {
        let (name, addresses, uplink) = (host_name.clone(), addresses.to_vec(), uplink.clone());
        let exposure = self.exposure.clone();
        blocking(move || exposure.announce(&name, &addresses, &uplink)).await
    }

    /// Compares link, addresses, routes, neighbours and proxies with what they should be;
    /// [`NetError::Drift`] names every difference.
    pub async fn check(&self, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
        let (spec, net) = (spec.clone(), net.clone());
        blocking(move || check::check(&Socket::open(NODE)?, &spec, &net)).await
    }

    /// Stops answering and routing for a link that stays: the address has a newer holder. Gives the addresses it
    /// had. A link that is gone has none.
    pub async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError> {
        let (name, exposure) = (host_name.clone(), self.exposure.clone());
        blocking(move || Ok(exposure.withdraw(&Socket::open(NODE)?, &name)?.1)).await
    }

    /// Removes a link and all that leads to it. When this returns the LAN is no longer answered and nothing is
    /// routed there; the interfaces themselves, which take the kernel some 20 ms, go in the background
    /// ([`settle`](Self::settle) waits for them). A link that is gone is no error: what may be left of it goes.
    pub async fn delete(&self, host_name: &IfName) -> Result<(), NetError> {
        let (name, exposure) = (host_name.clone(), self.exposure.clone());
        // Before anything is taken away: an ADD that comes now must not take the link over.
        let removal = self.leaving.begin(name.clone());
        blocking(move || {
            if let (Some(index), _) = exposure.withdraw(&Socket::open(NODE)?, &name)? {
                // From here, so that it happens even if the caller has gone.
                Handle::current().spawn_blocking(move || removal.finish(index));
            }
            Ok(())
        })
        .await
    }

    /// Waits until a link that was deleted is gone.
    pub async fn gone(&self, host_name: &IfName) -> Result<(), NetError> {
        let (name, leaving) = (host_name.clone(), self.leaving.clone());
        blocking(move || {
            leaving.wait_for(&name);
            Ok(())
        })
        .await
    }

    /// The interface that leads to the LAN of these addresses.
    pub async fn uplink(&self, net: &PodNet) -> Result<Uplink, NetError> {
        let net = net.clone();
        blocking(move || uplink::choose(&Socket::open(NODE)?, &net)).await
    }

    /// Waits until every link that was deleted is gone.
    pub async fn settle(&self) -> Result<(), NetError> {
        let leaving = self.leaving.clone();
        blocking(move || {
            leaving.wait_for_all();
            Ok(())
        })
        .await
    }

    /// Every link of ours on the node, whoever made it.
    pub async fn links(&self) -> Result<Vec<HostLink>, NetError> {
        blocking(|| host::links(&Socket::open(NODE)?)).await
    }

    /// Removes proxies that no link of ours stands behind: those of pods whose namespace went without a DEL.
    /// Gives their addresses.
    pub async fn sweep(&self) -> Result<Vec<IpAddr>, NetError> {
        let exposure = self.exposure.clone();
        blocking(move || exposure.sweep(&Socket::open(NODE)?)).await
    }

    /// Puts back, and announces, proxies that the kernel has flushed because an uplink was down. Gives their
    /// addresses. After a restart it also learns which link is exposed where.
    pub async fn restore(&self) -> Result<Vec<IpAddr>, NetError> {
        let exposure = self.exposure.clone();
        blocking(move || exposure.restore(&Socket::open(NODE)?)).await
    }

    /// Restores now, whenever an uplink changes, and now and then. It ends with an error or not at all; to be run as
    /// a task.
    pub async fn keep_exposed(&self) -> Result<(), NetError> {
        let broken = |source| NetError::Socket { what: "netlink", source };
        let (connection, _handle, mut events) = new_multicast_connection(&[MulticastGroup::Link]).map_err(broken)?;
        let _connection = AbortOnDrop(tokio::spawn(connection));
        loop {
            let restored = self.restore().await?;
            if !restored.is_empty() {
                tracing::info!(?restored, "an uplink was down; the node answers for these addresses again");
            }
            // Only the wait for the next occasion is cut short by the clock, never the work.
            tokio::time::timeout(RESTORE, self.uplink_change(&mut events)).await.unwrap_or(Ok(()))?;
        }
    }

    async fn uplink_change(&self, events: &mut Events) -> Result<(), NetError> {
        while let Some((message, _)) = events.next().await {
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            if LinkFacts::parse(&message).is_some_and(|facts| facts.up && self.exposure.is_uplink(&facts.name)) {
                return Ok(());
            }
        }
        Err(NetError::Worker("the kernel's messages about interfaces ended".to_owned()))
    }
}

type Events = futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, sys::SocketAddr)>;

/// A task that ends with whoever started it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where the node's sockets are, for messages.
const NODE: &str = "on this node";

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NetError::Worker(error.to_string()))?
}

fn configure(exposure: &Exposure, link: &PodLink, net: &PodNet) -> Result<Placement, NetError> {
    let inside = pod::Plan::new(link, net)?;
    let netns = Netns::open(&link.spec.netns)?;
    let node = Socket::open(NODE)?;
    let uplink = uplink::choose(&node, net)?;
    let mtu = link.spec.mtu.unwrap_or(uplink.mtu);
    let change = (mtu != link.mtu).then_some(mtu);
    inside.make(link, &netns, change)?;
    if let Some(mtu) = change {
        let message = LinkUnspec::new_with_index(link.host_index.0).mtu(mtu).build();
        node.commit(vec![set_link(message, format!("set the MTU of {} to {mtu}", link.host_name))])?;
    }
    // Last, because it takes the address from an older sandbox of the pod.
    exposure.route(&node, link, net)?;
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

/// A panic elsewhere leaves what is guarded here as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
