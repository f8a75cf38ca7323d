//! Fakes of the backends: a node in memory, for tests and simulations of the verbs, the driver and the reconciler.
//!
//! All fakes of a [`FakeNode`] write the calls that change something into one [`Journal`], in order, and each of these
//! calls can be made to fail or to hang once. Reads are not in the journal, but for those that a test wants to fail.

mod guard;
mod journal;
mod links;
mod namespaces;
mod processes;
mod records;

use std::sync::Arc;

use super::backend::Backends;

pub use self::{
    guard::FakeGuard,
    journal::Journal,
    links::FakeLinks,
    namespaces::FakeNamespaces,
    processes::FakeProcesses,
    records::{FakeRecords, NODE_NAME},
};

/// One fake of each backend. Clones share them.
#[derive(Clone)]
pub struct FakeNode {
    /// The calls so far, in order, and the ones that are to fail.
    pub journal: Journal,
    /// The node's links.
    pub links: Arc<FakeLinks>,
    /// The guard's maps.
    pub guard: Arc<FakeGuard>,
    /// Endpoints and pods.
    pub records: Arc<FakeRecords>,
    /// The process table.
    pub processes: Arc<FakeProcesses>,
    /// Interfaces inside of pods.
    pub namespaces: Arc<FakeNamespaces>,
}

impl FakeNode {
    /// Returns a node without pods.
    pub fn new() -> Self {
        let journal = Journal::default();
        Self {
            links: Arc::new(FakeLinks::new(journal.clone())),
            guard: Arc::new(FakeGuard::new(journal.clone())),
            records: Arc::new(FakeRecords::new(journal.clone())),
            processes: Arc::default(),
            namespaces: Arc::new(FakeNamespaces::new(journal.clone())),
            journal,
        }
    }

    /// Returns the fakes as a node's backends.
    pub fn backends(&self) -> Backends {
        Backends {
            links: Arc::<FakeLinks>::clone(&self.links),
            guard: Arc::<FakeGuard>::clone(&self.guard),
            records: Arc::<FakeRecords>::clone(&self.records),
            processes: Arc::<FakeProcesses>::clone(&self.processes),
            namespaces: Arc::<FakeNamespaces>::clone(&self.namespaces),
        }
    }
}

impl Default for FakeNode {
    fn default() -> Self {
        Self::new()
    }
}
