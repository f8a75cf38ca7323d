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
//! 2. [`Network::configure`]: addresses and routes in the pod, and all else that leaves an older sandbox of the pod as
//!    it is: packets still reach that one.
//! 3. (the guard binds the addresses: what the older sandbox sends, and what is sent to it, is dropped from here on)
//! 4. [`Network::expose`]: host routes and neighbours on the node, proxies on the uplink, gratuitous ARP and unsolicited
//!    neighbour advertisements. Packets reach the new sandbox as soon as its route stands, which is the first thing.
//!
//! Afterwards, with nobody waiting, neighbours and tracked connections of the address's former holder are forgotten.
//!
//! [`Network::keep_exposed`] puts back what the kernel flushes when an uplink goes down.
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
mod exposure;
mod host;
mod message;
mod neighbour;
mod netlink;
mod netns;
mod pod;
mod route;
mod setting;
mod spec;
mod traces;
mod turns;
mod uplink;
mod uplinks;
mod veth;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_core::id::IfName;
use rtnetlink::LinkUnspec;
use tokio::runtime::Handle;

pub use self::{
    error::NetError,
    netns::Netns,
    pod::{NEXT_HOP_V4, NEXT_HOP_V6},
    spec::{HostLink, LinkSpec, Placement, PodAddress, PodLink, PodNet, Uplink},
};
use self::{
    exposure::{Exposure, Withdrawn},
    message::set_link,
    netlink::Socket,
    traces::Traces,
    turns::{Turns, Work},
};

/// After the first announcement, these pauses and one more each: a switch or a host that was busy with the first.
const ANNOUNCE_AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// How often, and how many times, a worker of the kernel is waited for.
const KERNEL: (Duration, u32) = (Duration::from_micros(200), 500);

/// The node's network. Cheap to clone; all clones share one state. Its methods run on the runtime's blocking
/// threads, in the network namespace that the runtime was started in.
#[derive(Debug, Clone)]
pub struct Network {
    exposure: Arc<Exposure>,
    turns: Arc<Turns>,
    traces: Arc<Traces>,
}

impl Network {
    /// The network of the namespace this process is in. Fails where netlink or packet sockets cannot be used at all.
    pub fn open() -> Result<Self, NetError> {
        Socket::open(NODE)?;
        let exposure = Arc::new(Exposure::open()?);
        Ok(Self { traces: Arc::new(Traces::new(exposure.clone())), exposure, turns: Arc::default() })
    }

    /// Makes the node route for its pods: forwarding for both families (router advertisements that are accepted
    /// now stay so) and neighbour proxying. Once, at start.
    pub async fn prepare_node(&self) -> Result<(), NetError> {
        blocking(setting::prepare_node).await
    }

    /// Makes the pair, the pod end in the pod's namespace and down. Repeated for the same container and
    /// namespace it gives the same link. On an error nothing is left.
    pub async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError> {
        let spec = spec.clone();
        let turn = self.turns.take(&spec.container.host_link(&spec.ifname), Work::Make);
        blocking(move || {
            turn.wait();
            veth::create(&Socket::open(NODE)?, &spec)
        })
        .await
    }

    /// Addresses, next hop and routes in the pod, its MTU, and the uplink's settings; it ends when the link carries
    /// packets and the pod takes them. Nobody reaches the pod yet, and an older link with these addresses keeps them. On an error the caller
    /// deletes the link, which undoes all of it.
    pub async fn configure(&self, link: &PodLink, net: &PodNet) -> Result<Placement, NetError> {
        let (link, net, exposure) = (link.clone(), net.clone(), self.exposure.clone());
        let turn = self.turns.take(&link.host_name, Work::Make);
        blocking(move || {
            turn.wait();
            configure(&exposure, &link, &net)
        })
        .await
    }

    /// Leads the pod's addresses to this link, away from an older one; answers for them on the uplink; and tells the
    /// LAN: at once, and three times again within two seconds for as long as this link has the address.
    pub async fn expose(&self, link: &PodLink, net: &PodNet, uplink: &Uplink) -> Result<(), NetError> {
        let (network, link, net, to) = (self.clone(), link.clone(), net.clone(), uplink.clone());
        let (name, addresses) = (link.host_name.clone(), net.ips().collect());
        let turn = self.turns.take(&link.host_name, Work::Make);
        let exposed = blocking(move || {
            turn.wait();
            let moved = network.exposure.expose(&Socket::open(NODE)?, &link, &net, &to)?;
            network.traces.remove(moved);
            Ok(())
        });
        exposed.await?;
        tokio::spawn(repeat(self.clone(), name, addresses, uplink.clone()));
        Ok(())
    }

    /// Leads addresses to a link that had them before and is there still, as [`expose`](Self::expose) does for a new one:
    /// it turns out to be their holder after all. An uplink that is down is answered on when it comes up.
    pub async fn take_back(&self, link: &HostLink, addresses: &[IpAddr]) -> Result<(), NetError> {
        let (network, link, addresses) = (self.clone(), link.clone(), addresses.to_vec());
        let turn = self.turns.take(&link.name, Work::Make);
        blocking(move || {
            turn.wait();
            let moved = network.exposure.take_back(&Socket::open(NODE)?, &link, &addresses)?;
            network.traces.remove(moved);
            Ok(())
        })
        .await
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
    /// had. A link that is gone has none but those that were exposed with it.
    pub async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError> {
        let (name, network) = (host_name.clone(), self.clone());
        let turn = self.turns.take(host_name, Work::Remove);
        blocking(move || {
            turn.wait();
            Ok(network.withdraw_now(&name)?.addresses)
        })
        .await
    }

    /// Removes a link and all that leads to it. When this returns the LAN is no longer answered and nothing is
    /// routed there; the interfaces themselves, which take the kernel some 20 ms, go in the background
    /// ([`settle`](Self::settle) waits for them). A link that is gone is no error: what may be left of it goes.
    pub async fn delete(&self, host_name: &IfName) -> Result<(), NetError> {
        let (name, network) = (host_name.clone(), self.clone());
        // Before anything is taken away: an ADD that comes now must not take the link over.
        let turn = self.turns.take(host_name, Work::Remove);
        blocking(move || {
            turn.wait();
            if let Some(index) = network.withdraw_now(&name)?.index {
                // From here, so that it happens even if the caller has gone.
                Handle::current().spawn_blocking(move || turn.finish(index));
            }
            Ok(())
        })
        .await
    }

    /// Waits until a link that was deleted is gone.
    pub async fn gone(&self, host_name: &IfName) -> Result<(), NetError> {
        let turn = self.turns.take(host_name, Work::Make);
        blocking(move || {
            turn.wait();
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
        let withdrawn = self.exposure.withdraw(&Socket::open(NODE)?, host_name)?;
        self.traces.remove(withdrawn.addresses.iter().chain(&withdrawn.swept).copied());
        Ok(withdrawn)
    }

    /// Waits until every link that was deleted is gone, and every trace of addresses that moved.
    pub async fn settle(&self) -> Result<(), NetError> {
        let network = self.clone();
        blocking(move || {
            network.turns.wait_for_all();
            network.traces.wait();
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
        let network = self.clone();
        blocking(move || {
            let swept = network.exposure.sweep(&Socket::open(NODE)?)?;
            network.traces.remove(swept.iter().copied());
            Ok(swept)
        })
        .await
    }

    /// Puts back, and announces, proxies that the kernel has flushed because an uplink was down. Gives their
    /// addresses. After a restart it also learns which link is exposed where.
    pub async fn restore(&self) -> Result<Vec<IpAddr>, NetError> {
        let exposure = self.exposure.clone();
        blocking(move || exposure.restore(&Socket::open(NODE)?)).await
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
    let in_pod = inside.make(link, &netns, change)?;
    if let Some(mtu) = change {
        let message = LinkUnspec::new_with_index(link.host_index.0).mtu(mtu).build();
        node.commit(vec![set_link(message, format!("set the MTU of {} to {mtu}", link.host_name))])?;
    }
    exposure.prepare(&uplink)?;
    if inside.has_v6() {
        setting::allow_v6(link.host_name.as_str())?;
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
