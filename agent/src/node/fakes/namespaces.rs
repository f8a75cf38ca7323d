//! Interfaces inside of pods, in memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use holdfast_core::{id::IfName, mac::Mac};
use holdfast_net::NetError;
use parking_lot::Mutex;

use super::journal::Journal;
use crate::node::backend::Namespaces;

/// Interfaces that another plugin makes.
pub struct FakeNamespaces {
    journal: Journal,
    interfaces: Mutex<HashMap<(PathBuf, IfName), Mac>>,
}

impl FakeNamespaces {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, interfaces: Mutex::default() }
    }

    /// Makes an interface.
    pub fn put(&self, netns: &Path, interface: &IfName, mac: Mac) {
        self.interfaces.lock().insert((netns.to_owned(), interface.clone()), mac);
    }

    /// Removes an interface.
    pub fn remove(&self, netns: &Path, interface: &IfName) {
        self.interfaces.lock().remove(&(netns.to_owned(), interface.clone()));
    }
}

#[async_trait]
impl Namespaces for FakeNamespaces {
    async fn mac_of(&self, netns: &Path, interface: &IfName) -> Result<Option<Mac>, NetError> {
        Ok(self.interfaces.lock().get(&(netns.to_owned(), interface.clone())).copied())
    }

    async fn announce(&self, _netns: &Path, interface: &IfName, addresses: &[IpAddr]) {
        // It has no error to give.
        let _ = self.journal.call_async(format!("namespaces.announce {interface} {addresses:?}")).await;
    }
}
