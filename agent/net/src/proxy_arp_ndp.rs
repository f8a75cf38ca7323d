//! Which link the node answers for on the LAN, and with which interface.
//!
//! ```text
//!            advertise               withdraw
//!   (none) ─────────────▶ advertised ─────────────▶ (none)
//!                         advertised ── advertise, by a newer link ──▶ advertised
//!                         advertised, its proxy flushed by the kernel ── restore ──▶ advertised
//! ```
//!
//! The routes and proxies themselves are the kernel's; kept here is what it does not know: whose announcements may
//! still go out, and where a proxy was that it has flushed. One lock covers each reading of the tables and the
//! change that follows from it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Mutex,
};

use holdfast_core::id::IfName;

use super::{
    HostLink, NetError, PodAddress, PodLink, PodNet, Uplink, announce::Announcer, host, lock, neighbour::Proxy,
    netlink::Socket, sysctl, uplink, veth,
};

/// The state, and the socket for announcements.
#[derive(Debug)]
pub(super) struct ProxyArpNdp {
    state: Mutex<State>,
    announcer: Announcer,
}

#[derive(Debug, Default)]
struct State {
    advertised: HashMap<IpAddr, Advertised>,
    /// Uplinks whose settings are made, by number: an interface that comes back is another one.
    prepared: HashSet<u32>,
}

#[derive(Debug, Clone)]
struct Advertised {
    /// The host end.
    link: IfName,
    uplink: IfName,
}

/// What was taken away from a link.
#[derive(Debug)]
pub(super) struct Withdrawn {
    /// Its number, if it exists.
    pub(super) index: Option<u32>,
    /// The addresses it had.
    pub(super) addresses: Vec<IpAddr>,
    /// Those of any link that went without having been withdrawn.
    pub(super) pruned: Vec<IpAddr>,
}

impl ProxyArpNdp {
    pub(super) fn open() -> Result<Self, NetError> {
        Ok(Self { state: Mutex::default(), announcer: Announcer::open()? })
    }

    /// Settings that an uplink needs, made once.
    pub(super) fn prepare(&self, uplink: &Uplink) -> Result<(), NetError> {
        lock(&self.state).prepare(uplink)
    }

    /// Leads the addresses to the link, away from an older sandbox of the pod; answers for them; and says so. Gives
    /// those that did not lead there before.
    pub(super) fn advertise(
        &self,
        node: &Socket,
        link: &PodLink,
        net: &PodNet,
        uplink: &Uplink,
    ) -> Result<Vec<IpAddr>, NetError> {
        let mut state = lock(&self.state);
        state.prepare(uplink)?;
        let moved = host::Plan::new(link, net).make(node)?;
        node.commit(net.ips().map(|address| Proxy { address, link: uplink.index.0 }.replace()).collect())?;
        let advertised = Advertised { link: link.host_name.clone(), uplink: uplink.name.clone() };
        state.advertised.extend(net.ips().map(|address| (address, advertised.clone())));
        self.announce_once(uplink, net.ips());
        Ok(moved)
    }

    /// The same for a link that was found.
    pub(super) fn readvertise(
        &self,
        node: &Socket,
        link: &HostLink,
        addresses: &[IpAddr],
    ) -> Result<Vec<IpAddr>, NetError> {
        let mut state = lock(&self.state);
        let moved = host::Plan::of((link.index.0, link.pod_mac), addresses.iter().copied()).make(node)?;
        let proxies = proxied(node)?;
        for &address in addresses {
            let master = state.advertised.get(&address).map(|advertised| advertised.uplink.clone());
            let Some(uplink) = usable(node, address, master, proxies.get(&address).copied())? else { continue };
            state.prepare(&uplink)?;
            node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
            self.announce_once(&uplink, std::iter::once(address));
            state.advertised.insert(address, Advertised { link: link.name.clone(), uplink: uplink.name });
        }
        Ok(moved)
    }

    /// Announcements are repeated, and an uplink that is down now is restored when it comes up: none is worth an error.
    fn announce_once(&self, uplink: &Uplink, addresses: impl Iterator<Item = IpAddr>) {
        if let Err(error) = self.announcer.send(uplink, addresses) {
            tracing::warn!(uplink = %uplink.name, %error, "the LAN was not told where an address is");
        }
    }

    /// Says again where those of the addresses are that the link is still advertised with; whether there are any.
    /// The lock is held while sending: after a withdrawal not one announcement more leaves.
    pub(super) fn announce(&self, link: &IfName, addresses: &[IpAddr], uplink: &Uplink) -> Result<bool, NetError> {
        let state = lock(&self.state);
        let still = |address: &IpAddr| state.advertised.get(address).is_some_and(|advertised| advertised.link == *link);
        let ours: Vec<_> = addresses.iter().copied().filter(still).collect();
        self.announcer.send(uplink, ours.iter().copied())?;
        Ok(!ours.is_empty())
    }

    /// Does something to the tables: what it has read of them stays true until it has ended.
    pub(super) fn with_tables_locked<T>(&self, work: impl FnOnce() -> T) -> T {
        let _state = lock(&self.state);
        work()
    }

    /// Takes away routes, neighbours and proxies of a link.
    pub(super) fn withdraw(&self, node: &Socket, link: &IfName) -> Result<Withdrawn, NetError> {
        let mut state = lock(&self.state);
        // First, so that nothing is announced any more whatever comes.
        let mut lost: Vec<_> =
            state.advertised.extract_if(|_, advertised| advertised.link == *link).map(|(ip, _)| ip).collect();
        let (index, mut addresses) = match veth::find(node, link)? {
            Some(attrs) => (Some(attrs.index), host::withdraw(node, attrs.index)?),
            None => (None, Vec::new()),
        };
        lost.retain(|address| !addresses.contains(address));
        // The namespace went first and took along the link, or just now its routes; only on the uplink something may
        // be left.
        let pruned = if index.is_none() || !lost.is_empty() { state.prune(node)? } else { Vec::new() };
        addresses.extend(lost);
        Ok(Withdrawn { index, addresses, pruned })
    }

    /// Removes proxies that no link stands behind.
    pub(super) fn prune(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        lock(&self.state).prune(node)
    }

    /// Puts back proxies that the kernel has flushed, as it does when an interface goes down (and, before 6.6 or so,
    /// when it loses its carrier), and says so to the LAN. After a restart it also learns what is there. An address
    /// that cannot be restored does not keep the others from it; the last one's error is given.
    pub(super) fn restore(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let mut state = lock(&self.state);
        let proxies = proxied(node)?;
        let (mut restored, mut failed) = (Vec::new(), None);
        for link in host::links(node)? {
            for &address in &link.addresses {
                match self.restore_one(&mut state, node, (address, &link.name), proxies.get(&address).copied()) {
                    Ok(true) => restored.push(address),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(%address, link = %link.name, %error, "not answered for");
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

    /// Whether the proxy was missing, and is there again.
    fn restore_one(
        &self,
        state: &mut State,
        node: &Socket,
        (address, link): (IpAddr, &IfName),
        proxied: Option<u32>,
    ) -> Result<bool, NetError> {
        let known = state.advertised.get(&address).filter(|advertised| advertised.link == *link);
        if known.is_some() && proxied.is_some() {
            return Ok(false);
        }
        let master = known.map(|advertised| advertised.uplink.clone());
        let Some(uplink) = usable(node, address, master, proxied)? else { return Ok(false) };
        state.prepare(&uplink)?;
        let missing = proxied.is_none();
        if missing {
            node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
            self.announce_once(&uplink, std::iter::once(address));
        }
        state.advertised.insert(address, Advertised { link: link.clone(), uplink: uplink.name });
        Ok(missing)
    }

    /// Whether an interface is an uplink that something is advertised on.
    pub(super) fn is_uplink(&self, name: &str) -> bool {
        lock(&self.state).advertised.values().any(|advertised| advertised.uplink.as_str() == name)
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

/// On which interface the node answers for each address.
fn proxied(node: &Socket) -> Result<HashMap<IpAddr, u32>, NetError> {
    Ok(host::proxies(node)?.into_iter().map(|proxy| (proxy.address, proxy.link)).collect())
}

/// The uplink for an address that is routed already: where its proxy is, else where it was, else the one an ADD
/// would choose. `None` while that is missing or down; its coming up is the occasion to ask again.
fn usable(
    node: &Socket,
    address: IpAddr,
    before: Option<IfName>,
    now: Option<u32>,
) -> Result<Option<Uplink>, NetError> {
    if let Some(index) = now {
        return veth::find_index(node, index)?.map(|attrs| uplink::ethernet(&attrs)).transpose();
    }
    let addresses = vec![PodAddress { address: address.into(), gateway: None }];
    let net = PodNet { addresses, master: before, ..PodNet::default() };
    let uplink = match uplink::choose(node, &net) {
        Ok(uplink) => uplink,
        Err(NetError::NoUplink { .. } | NetError::BadUplink { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let up = veth::find_index(node, uplink.index.0)?.is_some_and(|attrs| attrs.up);
    Ok(up.then_some(uplink))
}
