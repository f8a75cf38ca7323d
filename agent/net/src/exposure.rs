//! Which link the node answers for on the LAN, and with which interface.
//!
//! ```text
//!              expose                 withdraw
//!   (none) ─────────────▶ exposed ─────────────▶ (none)
//!                         exposed ── expose, by a newer link ──▶ exposed
//!                         exposed, its proxy flushed by the kernel ── restore ──▶ exposed
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
    netlink::Socket, setting, uplink, veth,
};

/// The state, and the socket for announcements.
#[derive(Debug)]
pub(super) struct Exposure {
    state: Mutex<State>,
    announcer: Announcer,
}

#[derive(Debug, Default)]
struct State {
    exposed: HashMap<IpAddr, Exposed>,
    /// Uplinks whose settings are made, by number: an interface that comes back is another one.
    prepared: HashSet<u32>,
}

#[derive(Debug, Clone)]
struct Exposed {
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
    pub(super) swept: Vec<IpAddr>,
}

impl Exposure {
    pub(super) fn open() -> Result<Self, NetError> {
        Ok(Self { state: Mutex::default(), announcer: Announcer::open()? })
    }

    /// Settings that an uplink needs, made once.
    pub(super) fn prepare(&self, uplink: &Uplink) -> Result<(), NetError> {
        lock(&self.state).prepare(uplink)
    }

    /// Leads the addresses to the link, away from an older sandbox of the pod; answers for them; and says so. Gives
    /// those that did not lead there before.
    pub(super) fn expose(
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
        let exposed = Exposed { link: link.host_name.clone(), uplink: uplink.name.clone() };
        state.exposed.extend(net.ips().map(|address| (address, exposed.clone())));
        self.say(uplink, net.ips());
        Ok(moved)
    }

    /// The same for a link that was found.
    pub(super) fn take_back(
        &self,
        node: &Socket,
        link: &HostLink,
        addresses: &[IpAddr],
    ) -> Result<Vec<IpAddr>, NetError> {
        let mut state = lock(&self.state);
        let moved = host::Plan::of((link.index.0, link.pod_mac), addresses.iter().copied()).make(node)?;
        let proxies = proxied(node)?;
        for &address in addresses {
            let master = state.exposed.get(&address).map(|exposed| exposed.uplink.clone());
            let Some(uplink) = usable(node, address, master, proxies.get(&address).copied())? else { continue };
            state.prepare(&uplink)?;
            node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
            self.say(&uplink, std::iter::once(address));
            state.exposed.insert(address, Exposed { link: link.name.clone(), uplink: uplink.name });
        }
        Ok(moved)
    }

    /// Announcements are repeated, and an uplink that is down now is restored when it comes up: none is worth an error.
    fn say(&self, uplink: &Uplink, addresses: impl Iterator<Item = IpAddr>) {
        if let Err(error) = self.announcer.send(uplink, addresses) {
            tracing::warn!(uplink = %uplink.name, %error, "the LAN was not told where an address is");
        }
    }

    /// Says again where those of the addresses are that the link is still exposed with; whether there are any.
    /// The lock is held while sending: after a withdrawal not one announcement more leaves.
    pub(super) fn announce(&self, link: &IfName, addresses: &[IpAddr], uplink: &Uplink) -> Result<bool, NetError> {
        let state = lock(&self.state);
        let still = |address: &IpAddr| state.exposed.get(address).is_some_and(|exposed| exposed.link == *link);
        let ours: Vec<_> = addresses.iter().copied().filter(still).collect();
        self.announcer.send(uplink, ours.iter().copied())?;
        Ok(!ours.is_empty())
    }

    /// Does something to the tables: what it has read of them stays true until it has ended.
    pub(super) fn while_nothing_moves<T>(&self, work: impl FnOnce() -> T) -> T {
        let _state = lock(&self.state);
        work()
    }

    /// Takes away routes, neighbours and proxies of a link.
    pub(super) fn withdraw(&self, node: &Socket, link: &IfName) -> Result<Withdrawn, NetError> {
        let mut state = lock(&self.state);
        // First, so that nothing is announced any more whatever comes.
        let mut lost: Vec<_> = state.exposed.extract_if(|_, exposed| exposed.link == *link).map(|(ip, _)| ip).collect();
        let (index, mut addresses) = match veth::find(node, link)? {
            Some(facts) => (Some(facts.index), host::withdraw(node, facts.index)?),
            None => (None, Vec::new()),
        };
        lost.retain(|address| !addresses.contains(address));
        // The namespace went first and took along the link, or just now its routes; only on the uplink something may
        // be left.
        let swept = if index.is_none() || !lost.is_empty() { state.sweep(node)? } else { Vec::new() };
        addresses.extend(lost);
        Ok(Withdrawn { index, addresses, swept })
    }

    /// Removes proxies that no link stands behind.
    pub(super) fn sweep(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        lock(&self.state).sweep(node)
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
        let known = state.exposed.get(&address).filter(|exposed| exposed.link == *link);
        if known.is_some() && proxied.is_some() {
            return Ok(false);
        }
        let master = known.map(|exposed| exposed.uplink.clone());
        let Some(uplink) = usable(node, address, master, proxied)? else { return Ok(false) };
        state.prepare(&uplink)?;
        let missing = proxied.is_none();
        if missing {
            node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
            self.say(&uplink, std::iter::once(address));
        }
        state.exposed.insert(address, Exposed { link: link.clone(), uplink: uplink.name });
        Ok(missing)
    }

    /// Whether an interface is an uplink that something is exposed on.
    pub(super) fn is_uplink(&self, name: &str) -> bool {
        lock(&self.state).exposed.values().any(|exposed| exposed.uplink.as_str() == name)
    }
}

impl State {
    fn sweep(&mut self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let swept = host::sweep(node)?;
        self.exposed.retain(|address, _| !swept.contains(address));
        Ok(swept)
    }

    fn prepare(&mut self, uplink: &Uplink) -> Result<(), NetError> {
        if !self.prepared.contains(&uplink.index.0) {
            setting::prepare_uplink(uplink.name.as_str())?;
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
        return veth::find_index(node, index)?.map(|facts| uplink::ethernet(&facts)).transpose();
    }
    let addresses = vec![PodAddress { address: address.into(), gateway: None }];
    let net = PodNet { addresses, master: before, ..PodNet::default() };
    let uplink = match uplink::choose(node, &net) {
        Ok(uplink) => uplink,
        Err(NetError::NoUplink { .. } | NetError::BadUplink { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let up = veth::find_index(node, uplink.index.0)?.is_some_and(|facts| facts.up);
    Ok(up.then_some(uplink))
}
