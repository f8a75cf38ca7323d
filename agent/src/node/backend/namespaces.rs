//! Interfaces inside of pods' network namespaces.

use std::{net::IpAddr, path::Path};

use async_trait::async_trait;
use holdfast_core::{id::IfName, mac::Mac};
use holdfast_net::{NetError, Netns};

/// Interfaces that other plugins made inside of pods. A namespace is named by a path such as `/run/netns/…` or
/// `/proc/<pid>/ns/net`.
#[async_trait]
pub trait Namespaces: Send + Sync {
    /// Returns an interface's hardware address. None: it is not there (yet).
    async fn mac_of(&self, netns: &Path, interface: &IfName) -> Result<Option<Mac>, NetError>;

    /// Tells the LAN three times within two seconds, from inside, that the addresses are at the interface's hardware
    /// address. Failures are logged.
    async fn announce(&self, netns: &Path, interface: &IfName, addresses: &[IpAddr]);
}

/// The node's network namespaces.
#[derive(Debug, Clone, Copy)]
pub struct KernelNamespaces;

#[async_trait]
impl Namespaces for KernelNamespaces {
    async fn mac_of(&self, netns: &Path, interface: &IfName) -> Result<Option<Mac>, NetError> {
        let (netns, interface) = (netns.to_owned(), interface.clone());
        let found = tokio::task::spawn_blocking(move || Netns::open(&netns)?.mac_of(&interface));
        found.await.map_err(|error| NetError::Worker(error.to_string()))?
    }

    async fn announce(&self, netns: &Path, interface: &IfName, addresses: &[IpAddr]) {
        Netns::announce_repeatedly(netns, interface, addresses).await;
    }
}
