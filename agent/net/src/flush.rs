//! Flushing the neighbours and tracked connections of an address's former holder.
//!
//! ```text
//!   an address moves to a link, or leaves ──▶ pending ──▶ one read of the tables for all pending addresses
//! ```
//!
//! Reading the tables takes longer the more connections the node has. So the flush runs in the background, after the
//! address has moved. It hits no connection of the new pod: a pod has none in its first milliseconds.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use super::{
    conntrack,
    error::NetError,
    host,
    neighbour::Entry,
    netlink::{NODE, Socket},
    proxy_arp_ndp::ProxyArpNdp,
};

/// The addresses to flush, and the state of the worker that flushes them.
#[derive(Debug)]
pub(super) struct Flusher {
    proxy_arp_ndp: Arc<ProxyArpNdp>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: HashSet<IpAddr>,
    is_running: bool,
}

impl Flusher {
    /// Returns a flusher without pending addresses. Its worker reads neighbours under the lock of `proxy_arp_ndp`.
    pub(super) fn new(proxy_arp_ndp: Arc<ProxyArpNdp>) -> Self {
        Self { proxy_arp_ndp, state: Mutex::default(), ended: Condvar::new() }
    }

    /// Flushes these addresses in the background. Call it on a thread of the runtime.
    pub(super) fn flush(self: &Arc<Self>, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut state = self.state.lock();
        state.pending.extend(addresses);
        if !state.pending.is_empty() && !state.is_running {
            state.is_running = true;
            let worker = Worker { flusher: self.clone(), has_ended: false };
            Handle::current().spawn_blocking(move || worker.run());
        }
    }

    /// Blocks until no address is pending.
    pub(super) fn wait_idle(&self) {
        self.ended.wait_while(&mut self.state.lock(), |state| state.is_running);
    }
}

/// The running worker. A runtime that shuts down may drop it before it has run.
struct Worker {
    flusher: Arc<Flusher>,
    has_ended: bool,
}

impl Worker {
    fn run(mut self) {
        while let Some(addresses) = self.next() {
            match flush(&self.flusher.proxy_arp_ndp, &addresses) {
                Ok((0, 0)) => {}
                Ok((neighbours, connections)) => {
                    tracing::debug!(?addresses, neighbours, connections, "flushed the entries of former holders");
                }
                // Each entry is the former holder's until it expires.
                Err(error) => tracing::warn!(
                    ?addresses, %error,
                    "neighbours or tracked connections of former holders were not flushed; they expire by themselves"
                ),
            }
        }
    }

    fn next(&mut self) -> Option<HashSet<IpAddr>> {
        let mut state = self.flusher.state.lock();
        self.has_ended = state.pending.is_empty();
        state.is_running = !self.has_ended;
        (!self.has_ended).then(|| std::mem::take(&mut state.pending))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_ended {
            self.flusher.state.lock().is_running = false;
        }
        self.flusher.ended.notify_all();
    }
}

/// Returns how many neighbours and connections were removed.
fn flush(proxy_arp_ndp: &ProxyArpNdp, addresses: &HashSet<IpAddr>) -> Result<(usize, usize), NetError> {
    let node = Socket::open(NODE)?;
    // Without the lock, an address that comes back after the read would lose its new neighbour.
    let neighbours = proxy_arp_ndp.with_tables_locked(|| flush_neighbours(&node, addresses));
    let connections = conntrack::flush(addresses)?;
    Ok((neighbours?, connections))
}

/// Removes stale neighbours and returns their number. An address of this node is a neighbour on its own link only: not
/// on an older link, and not on the uplink, where the node learnt it while another node had it. Of an address that has
/// left, only our own entries are stale: an entry learnt since says where it is now. Permanent entries of an
/// administrator stay.
fn flush_neighbours(node: &Socket, addresses: &HashSet<IpAddr>) -> Result<usize, NetError> {
    let holders = host::holders(node)?;
    let is_stale = |entry: &Entry| {
        let holder = holders.get(&entry.address);
        addresses.contains(&entry.address)
            && holder != Some(&entry.link)
            && (entry.ours || (holder.is_some() && !entry.permanent))
    };
    let stale: Vec<_> = Entry::list(node, None)?.into_iter().filter(is_stale).collect();
    let count = stale.len();
    node.commit(stale.into_iter().map(Entry::remove).collect())?;
    Ok(count)
}
