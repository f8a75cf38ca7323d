//! Which link the node answers for on the LAN, and with which interface.
//!
//! ```text
//!            route                 expose                 withdraw
//!   (none) ─────────▶ pending ───────────────▶ exposed ─────────────▶ (none)
//!                        └───────── withdraw ────────────────────────────▲
//!   exposed, its proxy flushed by the kernel ── restore ──▶ exposed
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
    NetError, PodAddress, PodLink, PodNet, Uplink, announce::Announcer, host, lock, neighbour::Proxy, netlink::Socket,
    setting, uplink, veth,
};

/// The state, and the socket for announcements.
#[derive(Debug)]
pub(super) struct Exposure {
    state: Mutex<State>,
    announcer: Announcer,
}

#[derive(Debug, Default)]
struct State {
    /// Routed but not exposed yet: what is being added.
    pending: HashMap<IpAddr, IfName>,
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

impl Exposure {
    pub(super) fn open() -> Result<Self, NetError> {
        Ok(Self { state: Mutex::default(), announcer: Announcer::open()? })
    }

    /// Leads the addresses to the link, away from an older sandbox of the pod.
    pub(super) fn route(&self, node: &Socket, link: &PodLink, net: &PodNet) -> Result<(), NetError> {
        let mut state = lock(&self.state);
        state.pending.extend(net.ips().map(|address| (address, link.host_name.clone())));
        host::Plan::new(link, net).make(node)
    }

    /// Answers for the addresses and says so.
    pub(super) fn expose(
        &self,
        node: &Socket,
        link: &IfName,
        addresses: &[IpAddr],
        uplink: &Uplink,
    ) -> Result<(), NetError> {
        let mut state = lock(&self.state);
        state.prepare(uplink)?;
        let proxy = |&address: &IpAddr| Proxy { address, link: uplink.index.0 }.replace();
        node.commit(addresses.iter().map(proxy).collect())?;
        for address in addresses {
            state.pending.remove(address);
            state.exposed.insert(*address, Exposed { link: link.clone(), uplink: uplink.name.clone() });
        }
        self.announcer.send(uplink, addresses.iter().copied())
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

    /// Takes away routes and proxies of a link. Gives its number, if it exists, and the addresses it had.
    pub(super) fn withdraw(&self, node: &Socket, link: &IfName) -> Result<(Option<u32>, Vec<IpAddr>), NetError> {
        let mut state = lock(&self.state);
        state.pending.retain(|_, pending| pending != link);
        state.exposed.retain(|_, exposed| exposed.link != *link);
        if let Some(facts) = veth::find(node, link)? {
            return Ok((Some(facts.index), host::withdraw(node, facts.index)?));
        }
        // The namespace went first and took the link along; only on the uplink something may be left.
        host::sweep(node)?;
        Ok((None, Vec::new()))
    }

    /// Removes proxies that no link stands behind.
    pub(super) fn sweep(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let mut state = lock(&self.state);
        let swept = host::sweep(node)?;
        state.exposed.retain(|address, _| !swept.contains(address));
        Ok(swept)
    }

    /// Puts back proxies that the kernel has flushed, as it does when an interface goes down (and, before 6.6 or so,
    /// when it loses its carrier), and says so to the LAN. After a restart it also learns what is there.
    pub(super) fn restore(&self, node: &Socket) -> Result<Vec<IpAddr>, NetError> {
        let mut state = lock(&self.state);
        let proxies: HashMap<_, _> =
            host::proxies(node)?.into_iter().map(|proxy| (proxy.address, proxy.link)).collect();
        let mut restored = Vec::new();
        for link in host::links(node)? {
            for address in link.addresses {
                let known = state.exposed.get(&address).filter(|exposed| exposed.link == link.name);
                if state.pending.contains_key(&address) || (known.is_some() && proxies.contains_key(&address)) {
                    continue;
                }
                let master = known.map(|exposed| exposed.uplink.clone());
                let Some(uplink) = usable(node, address, master, proxies.get(&address).copied())? else { continue };
                state.prepare(&uplink)?;
                if !proxies.contains_key(&address) {
                    node.commit(vec![Proxy { address, link: uplink.index.0 }.replace()])?;
                    self.announcer.send(&uplink, std::iter::once(address))?;
                    restored.push(address);
                }
                state.exposed.insert(address, Exposed { link: link.name.clone(), uplink: uplink.name });
            }
        }
        Ok(restored)
    }

    /// Whether an interface is an uplink that something is exposed on.
    pub(super) fn is_uplink(&self, name: &str) -> bool {
        lock(&self.state).exposed.values().any(|exposed| exposed.uplink.as_str() == name)
    }
}

impl State {
    fn prepare(&mut self, uplink: &Uplink) -> Result<(), NetError> {
        if !self.prepared.contains(&uplink.index.0) {
            setting::prepare_uplink(uplink.name.as_str())?;
            self.prepared.insert(uplink.index.0);
        }
        Ok(())
    }
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
