//! [`Ipam`], the crate's front type: the store, the pool cache and the settings that all verbs share.

use std::{net::IpAddr, sync::Arc};

use holdfast_api::store::Store;
use holdfast_core::{id::PodName, pool::Family};

use crate::{metrics::IpamMetrics, pool_cache::PoolCache, recently_used::RecentlyUsed};

/// The number of times that a verb starts over because others changed what it had read.
pub(crate) const ATTEMPTS: usize = 5;

/// Binds containers to addresses through the API server. Clones share one state.
#[derive(Clone)]
pub struct Ipam {
    pub(crate) store: Store,
    pub(crate) pools: Arc<PoolCache>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: IpamMetrics,
    pub(crate) recently_used: Arc<RecentlyUsed>,
}

/// The operator's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// The families of which pods get addresses.
    pub families: Vec<Family>,
    /// True where the pods of StatefulSets keep their addresses.
    pub sticky_stateful_sets: bool,
}

impl Ipam {
    /// Returns an IPAM that allocates from `pools` and writes through `store`.
    pub fn new(store: Store, pools: Arc<PoolCache>, settings: Settings, metrics: IpamMetrics) -> Self {
        Self { store, pools, settings: Arc::new(settings), metrics, recently_used: Arc::default() }
    }

    /// Returns this node's name.
    pub fn node(&self) -> &str {
        &self.settings.node
    }

    /// Marks as released the claims of addresses that the pod's endpoint no longer lists. A claim that a failure leaves
    /// unmarked is collected by the controller.
    pub async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]) {
        self.recently_used.forget(addresses);
        if let Err(error) = self.store.release_addresses(pod, addresses).await {
            tracing::warn!(%pod, ?addresses, %error, "the claims were not marked as released; the controller will do it");
        }
    }
}
