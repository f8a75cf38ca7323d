//! Proxy ARP and proxy NDP: the link and the uplink that the node answers for each address with.
//!
//! ```text
//!            advertise               withdraw
//!   (none) ─────────────▶ advertised ─────────────▶ (none)
//!                         advertised ── advertise, by a newer link ──▶ advertised
//!                         advertised, its proxy flushed by the kernel ── restore ──▶ advertised
//! ```
//!
//! Routes and proxies are in the kernel's tables. This state holds what the kernel does not have: the link whose
//! announcements may go out, and the uplink of a proxy that the kernel has flushed. One lock covers each read of the
//! tables and the change that follows from it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use holdfast_core::id::IfName;
use parking_lot::Mutex;

use super::{
    announce::Announcer,
    error::NetError,
    host,
    link::{HostLink, PodAddress, PodLink, PodNet, Uplink},
    link_attrs::LinkAttrs,
    neighbour::Proxy,
    netlink::Socket,
    sysctl, uplink,
};

/// The advertised addresses, and the socket for announcements.
#[derive(Debug)]
pub(super) struct ProxyArpNdp {
    state: Mutex<State>,
    announcer: Announcer,
}

#[derive(Debug, Default)]
struct State {
    advertised: HashMap<IpAddr, Advertisement>,
    /// The indexes of uplinks whose sysctls are set. An interface that is created again has another index.
    prepared: HashSet<u32>,
}

#[derive(Debug, Clone)]
struct Advertisement {
    /// The host end.
    link: IfName,
    uplink: IfName,
}

/// The outcome of a withdrawal.
#[derive(Debug)]
pub(super) struct Withdrawn {
    /// The link's index, if it exists.
    pub(super) index: Option<u32>,
    /// The addresses that the link had.
    pub(super) addresses: Vec<IpAddr>,
    /// The addresses of links that went without a withdrawal.
    pub(super) pruned: Vec<IpAddr>,
}

impl ProxyArpNdp {
    pub(super) fn open() -> Result<Self, NetError> {
        Ok(Self { state: Mutex::default(), announcer: Announcer::open()? })
    }

    /// Sets the sysctls of an uplink, once.
    pub(super) fn prepare(&self, uplink: &Uplink) -> Result<(), NetError> {
        self.state.lock().prepare(uplink)
    }

    /// Routes the addresses to the link, away from an older sandbox of the pod, answers for them on the uplink and
    /// announces them. Returns the addresses that were not routed to the link before.
    pub(super) fn advertise(
        &self,
        node: &Socket,
        link: &PodLink,
        net: &PodNet,
        uplink: &Uplink,
    ) -> Result<Vec<IpAddr>, NetError> {
        let mut state = self.state.lock();
        state.prepare(uplink)?;
        let moved = host::Plan::new(link, net).apply(node)?;
        node.commit(net.ips().map(|address| Proxy { address, link: uplink.index.0 }.replace()).collect())?;
        let advertisement = Advertisement { link: link.host_name.clone(), uplink: uplink.name.clone() };
        state.advertised.extend(net.ips().map(|address| (address, advertisement.clone())));
        self.try_announce(uplink, net.ips());
        Ok(moved)
    }

    /// Does the same as [`Self::advertise`] for a link that exists already. An address without a usable uplink is
    /// routed only; [`Self::restore`] answers for it when the uplink comes up.
    pub(super) fn readvertise(
        &self,
        node: &Socket,
        link: &HostLink,
        addresses: &[IpAddr],
    ) -> Result<Vec<IpAddr>, NetError> {
        let mut state = self.state.lock();
        let moved = host::Plan::of((link.index.0, link.pod_mac), addresses.iter().copied()).apply(node)?;
        let proxies = proxy_uplinks(node)?;
        for &address in addresses {
            let before = state.advertised.get(&address).map(|advertisement| advertisement.uplink.clone());
            let Some(uplink) = usable_uplink(node, address, before, proxies.get(&address).copied())? else { continue };
            state.prepare(&uplink)?;
            node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
            self.try_announce(&uplink, std::iter::once(address));
            state.advertised.insert(address, Advertisement { link: link.name.clone(), uplink: uplink.name });
        }
        Ok(moved)
    }

    /// Announces once. A failure is logged only: announcements are repeated, and those on an uplink that is down are
    /// made when it comes up.
    fn try_announce(&self, uplink: &Uplink, addresses: impl Iterator<Item = IpAddr>) {
        if let Err(error) = self.announcer.send(uplink, addresses) {
            tracing::warn!(uplink = %uplink.name, %error, "addresses were not announced to the LAN");
        }
    }

    /// Announces once more those of the addresses that the link is advertised with, and returns whether there are any.
    /// The lock is held while sending: no announcement leaves after a withdrawal.
    pub(super) fn announce(&self, link: &IfName, addresses: &[IpAddr], uplink: &Uplink) -> Result<bool, NetError> {
        let state = self.state.lock();
        let is_of_link = |address: &IpAddr| state.advertised.get(address).is_some_and(|found| found.link == *link);
        let ours: Vec<_> = addresses.iter().copied().filter(is_of_link).collect();
        self.announcer.send(uplink, ours.iter().copied())?;
        Ok(!ours.is_empty())
    }

    /// Runs `work` while no address moves, so that what it reads from the tables stays true until it ends.
    pub(super) fn with_tables_locked<T>(&self, work: impl FnOnce() -> T) -> T {
        let _state = self.state.lock();
        work()
    }

    /// Removes routes, neighbours and proxies of a link.
    pub(super) fn withdraw(&self, node: &Socket, link: &IfName) -> Result<Withdrawn, NetError> {
        let mut state = self.state.lock();
        // This comes first, so that announcements end even if a later step fails.
        let mut lost: Vec<_> = state.advertised.extract_if(|_, found| found.link == *link).map(|(ip, _)| ip).collect();
        let (index, mut addresses) = match LinkAttrs::find(node, link)? {
            Some(attrs) => (Some(attrs.index), host::withdraw(node, attrs.index)?),
            None => (None, Vec::new()),
        };
        lost.retain(|address| !addresses.contains(address));
        // If the namespace went first, the kernel has removed the link, or just now its routes; the proxies are on the
        // uplink and may be left.
        let pruned = if index.is_none() || !lost.is_empty() { state.prune(node)? } else { Vec::new() };
        addresses.extend(lost);
        Ok(Withdrawn { index, addresses, pruned })
    }

    /// Removes proxies for addresses that no link of ours has, and returns the addresses.
    pub(super) fn prune(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        self.state.lock().prune(node)
    }

    /// Adds and announces again the proxies that the kernel has flushed, and returns their addresses. The kernel
    /// flushes them when an interface goes down and, before 6.6 or so, when it loses its carrier. After a restart of
    /// the agent this also fills the state. If an address fails, the others are still restored; the error is the last
    /// one's.
    pub(super) fn restore(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let mut state = self.state.lock();
        let proxies = proxy_uplinks(node)?;
        let (mut restored, mut failed) = (Vec::new(), None);
        for link in host::links(node)? {
            for &address in &link.addresses {
                match self.restore_one(&mut state, node, (address, &link.name), proxies.get(&address).copied()) {
                    Ok(true) => restored.push(address),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(%address, link = %link.name, %error, "the proxy of an address was not restored");
                        failed = Some(error);
                    }
                }
            }
        }
        if !restored.is_empty() {
            tracing::info!(?restored, "an uplink was down; the node answers for these addresses again");
        }
        failed.map_or(Ok(restored), Err)
    }

    /// Returns true if the proxy was missing and has been added. `proxy` is the index of the interface that has it.
    fn restore_one(
        &self,
        state: &mut State,
        node: &Socket,
        (address, link): (IpAddr, &IfName),
        proxy: Option<u32>,
    ) -> Result<bool, NetError> {
        let known = state.advertised.get(&address).filter(|found| found.link == *link);
        if known.is_some() && proxy.is_some() {
            return Ok(false);
        }
        let before = known.map(|found| found.uplink.clone());
        let Some(uplink) = usable_uplink(node, address, before, proxy)? else { return Ok(false) };
        state.prepare(&uplink)?;
        let is_missing = proxy.is_none();
        if is_missing {
            node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
            self.try_announce(&uplink, std::iter::once(address));
        }
        state.advertised.insert(address, Advertisement { link: link.clone(), uplink: uplink.name });
        Ok(is_missing)
    }

    /// Returns true if an address is advertised on the interface of that name.
    pub(super) fn is_uplink(&self, name: &str) -> bool {
        self.state.lock().advertised.values().any(|found| found.uplink.as_str() == name)
    }
}

impl State {
    fn prune(&mut self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let pruned = host::prune_proxies(node)?;
        self.advertised.retain(|address, _| !pruned.contains(address));
        Ok(pruned)
    }

    fn prepare(&mut self, uplink: &Uplink) -> Result<(), NetError> {
        if !self.prepared.contains(&uplink.index.0) {
            sysctl::prepare_uplink(uplink.name.as_str())?;
            self.prepared.insert(uplink.index.0);
        }
        Ok(())
    }
}

/// Returns the index of the interface that each address has its proxy on.
fn proxy_uplinks(node: &Socket) -> Result<HashMap<IpAddr, u32>, NetError> {
    Ok(Proxy::list_ours(node)?.into_iter().map(|proxy| (proxy.address, proxy.link)).collect())
}

/// Returns the uplink for an address that is routed already: the interface that has its proxy `now`, else the one that
/// had it `before`, else the one that an ADD would select. `None` while that interface is missing or down; its coming
/// up leads to the next [`ProxyArpNdp::restore`].
fn usable_uplink(
    node: &Socket,
    address: IpAddr,
    before: Option<IfName>,
    now: Option<u32>,
) -> Result<Option<Uplink>, NetError> {
    if let Some(index) = now {
        return LinkAttrs::find_index(node, index)?.map(|attrs| uplink::ethernet(&attrs)).transpose();
    }
    let addresses = vec![PodAddress { address: address.into(), gateway: None }];
    let net = PodNet { addresses, master: before, ..PodNet::default() };
    let uplink = match uplink::select(node, &net) {
        Ok(uplink) => uplink,
        Err(NetError::NoUplink { .. } | NetError::BadUplink { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_up = LinkAttrs::find_index(node, uplink.index.0)?.is_some_and(|attrs| attrs.up);
    Ok(is_up.then_some(uplink))
}
