//! What the node remembers of an address's former holder: neighbours learnt elsewhere, and tracked connections.
//!
//! ```text
//!   an address moves to a link, or leaves ──▶ wanted ──▶ one reading of the tables for all that are wanted
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

use super::{NODE, NetError, conntrack, exposure::Exposure, host, lock, neighbour::Entry, netlink::Socket};

/// The addresses whose traces are to go.
#[derive(Debug)]
pub(super) struct Traces {
    exposure: Arc<Exposure>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: HashSet<IpAddr>,
    at_work: bool,
}

impl Traces {
    /// None yet. `exposure` says when addresses move.
    pub(super) fn new(exposure: Arc<Exposure>) -> Self {
        Self { exposure, state: Mutex::default(), done: Condvar::new() }
    }

    /// Has the traces of these addresses removed soon. To be called on the runtime's threads or its blocking ones.
    pub(super) fn remove(self: &Arc<Self>, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut state = lock(&self.state);
        state.wanted.extend(addresses);
        if !state.wanted.is_empty() && !state.at_work {
            state.at_work = true;
            let worker = Worker { traces: self.clone(), ended: false };
            Handle::current().spawn_blocking(move || worker.work());
        }
    }

    /// Waits until nothing is wanted.
    pub(super) fn wait(&self) {
        drop(self.done.wait_while(lock(&self.state), |state| state.at_work));
    }
}

/// The one that is at work. A runtime that ends may drop it before it has begun.
struct Worker {
    traces: Arc<Traces>,
    ended: bool,
}

impl Worker {
    fn work(mut self) {
        while let Some(wanted) = self.next() {
            match remove(&self.traces.exposure, &wanted) {
                Ok((0, 0)) => {}
                Ok((neighbours, connections)) => {
                    tracing::debug!(addresses = ?wanted, neighbours, connections, "forgot what was of a former holder");
                }
                // They age and go by themselves; until then they are the former holder's.
                Err(error) => {
                    tracing::warn!(addresses = ?wanted, %error, "neighbours or tracked connections of a former holder were not removed");
                }
            }
        }
    }

    fn next(&mut self) -> Option<HashSet<IpAddr>> {
        let mut state = lock(&self.traces.state);
        self.ended = state.wanted.is_empty();
        state.at_work = !self.ended;
        (!self.ended).then(|| std::mem::take(&mut state.wanted))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.traces.state).at_work = false;
        }
        self.traces.done.notify_all();
    }
}

/// Gives how many neighbours and connections there were.
fn remove(exposure: &Exposure, addresses: &HashSet<IpAddr>) -> Result<(usize, usize), NetError> {
    let node = Socket::open(NODE)?;
    // An address that comes back meanwhile would lose the neighbour that it has just been given.
    let neighbours = exposure.while_nothing_moves(|| remove_neighbours(&node, addresses));
    let connections = conntrack::flush(addresses)?;
    Ok((neighbours?, connections))
}

/// An address that is here is a neighbour on its link alone: not on the uplink, where it was heard of when another node
/// had it, and not on an older link. Of one that has left only our own entries go, because what was learnt is where it
/// is now; and what an administrator set up stays in any case.
fn remove_neighbours(node: &Socket, addresses: &HashSet<IpAddr>) -> Result<usize, NetError> {
    let holders = host::holders(node)?;
    let is_trace = |entry: &Entry| {
        let holder = holders.get(&entry.address);
        addresses.contains(&entry.address)
            && holder != Some(&entry.link)
            && (entry.ours || (holder.is_some() && !entry.permanent))
    };
    let traces: Vec<_> = host::neighbours(node, None)?.into_iter().filter(is_trace).collect();
    let count = traces.len();
    node.commit(traces.into_iter().map(Entry::remove).collect())?;
    Ok(count)
}
