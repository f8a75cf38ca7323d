//! The store's client, behind the gate of its writes.

use kube::{Api, Client, Resource, core::NamespaceResourceScope};

use super::{error::StoreError, write_gate::WriteGate};

/// The number of times that a compare-and-swap is tried before the caller gets the conflict.
pub(super) const ATTEMPTS: usize = 5;

/// Reads and writes at the API server.
#[derive(Clone)]
pub struct Store {
    client: Client,
    gate: WriteGate,
}

impl Store {
    /// Returns a store that always writes.
    pub fn new(client: Client) -> Self {
        Self { client, gate: WriteGate::always_open() }
    }

    /// Returns the same store, which writes only while `gate` is open.
    #[must_use]
    pub fn with_write_gate(self, gate: WriteGate) -> Self {
        Self { gate, ..self }
    }

    /// Returns true while this store may write.
    pub fn may_write(&self) -> bool {
        self.gate.is_open()
    }

    /// Returns the client, for watches and events.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Fails while the gate is closed. Every write calls this right before its request.
    pub(super) fn check_gate(&self, what: impl FnOnce() -> String) -> Result<(), StoreError> {
        if self.may_write() { Ok(()) } else { Err(StoreError::NotLeading { what: what() }) }
    }

    /// Returns the objects of a kind in all namespaces, or without one.
    pub(super) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Returns the objects of a kind in one namespace.
    pub(super) fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}
