//! What the node remembers of an address's former holder: neighbours learnt elsewhere, and tracked connections.
//!
//! ```text
//!   an address moves to a link, or leaves ──▶ pending ──▶ one reading of the tables for all that are pending
//! ```
//!
//! Reading the tables takes longer the more the node has to do, so it happens after the address has moved and nobody
//! waits for it. In a pod's first milliseconds there are no connections yet that it could hit.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Condvar, Mutex},
};

use tokio::runtime::Handle;

use super::{NODE, NetError, conntrack, host, lock, neighbour::Entry, netlink::Socket, proxy_arp_ndp::ProxyArpNdp};

/// The addresses to flush.
#[derive(Debug)]
pub(super) struct Flusher {
    proxy_arp_ndp: Arc<ProxyArpNdp>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: HashSet<IpAddr>,
    running: bool,
}

impl Flusher {
    /// None yet. `proxy_arp_ndp` says when addresses move.
    pub(super) fn new(proxy_arp_ndp: Arc<ProxyArpNdp>) -> Self {
        Self { proxy_arp_ndp, state: Mutex::default(), done: Condvar::new() }
    }

    /// Flushes these addresses soon, in the background. To be called on the runtime's threads or its blocking ones.
    pub(super) fn flush(self: &Arc<Self>, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut state = lock(&self.state);
        state.pending.extend(addresses);
        if !state.pending.is_empty() && !state.running {
            state.running = true;
            let worker = Worker { flusher: self.clone(), ended: false };
            Handle::current().spawn_blocking(move || worker.work());
        }
    }

    /// Waits until nothing is pending.
    pub(super) fn wait_idle(&self) {
        drop(self.done.wait_while(lock(&self.state), |state| state.running));
    }
}

/// The one that is at work. A runtime that ends may drop it before it has begun.
struct Worker {
    flusher: Arc<Flusher>,
    ended: bool,
}

impl Worker {
    fn work(mut self) {
        while let Some(pending) = self.next() {
            match flush(&self.flusher.proxy_arp_ndp, &pending) {
                Ok((0, 0)) => {}
                Ok((neighbours, connections)) => {
                    tracing::debug!(addresses = ?pending, neighbours, connections, "forgot what was of a former holder");
                }
                // They age and go by themselves; until then they are the former holder's.
                Err(error) => {
                    tracing::warn!(addresses = ?pending, %error, "neighbours or tracked connections of a former holder were not removed");
                }
            }
        }
    }

    fn next(&mut self) -> Option<HashSet<IpAddr>> {
        let mut state = lock(&self.flusher.state);
        self.ended = state.pending.is_empty();
        state.running = !self.ended;
        (!self.ended).then(|| std::mem::take(&mut state.pending))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.flusher.state).running = false;
        }
        self.flusher.done.notify_all();
    }
}

/// Gives how many neighbours and connections there were.
fn flush(proxy_arp_ndp: &ProxyArpNdp, addresses: &HashSet<IpAddr>) -> Result<(usize, usize), NetError> {
    let node = Socket::open(NODE)?;
    // An address that comes back meanwhile would lose the neighbour that it has just been given.
    let neighbours = proxy_arp_ndp.with_tables_locked(|| flush_neighbours(&node, addresses));
    let connections = conntrack::flush(addresses)?;
    Ok((neighbours?, connections))
}

/// An address that is here is a neighbour on its link alone: not on the uplink, where it was heard of when another node
/// had it, and not on an older link. Of one that has left only our own entries go, because what was learnt is where it
/// is now; and what an administrator set up stays in any case.
fn flush_neighbours(node: &Socket, addresses: &HashSet<IpAddr>) -> Result<usize, NetError> {
    let holders = host::holders(node)?;
    let is_stale = |entry: &Entry| {
        let holder = holders.get(&entry.address);
        addresses.contains(&entry.address)
            && holder != Some(&entry.link)
            && (entry.ours || (holder.is_some() && !entry.permanent))
    };
    let stale: Vec<_> = host::neighbours(node, None)?.into_iter().filter(is_stale).collect();
    let count = stale.len();
    node.commit(stale.into_iter().map(Entry::remove).collect())?;
    Ok(count)
}
