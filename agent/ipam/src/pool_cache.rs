//! The pools and reserved addresses, as the last watch events showed them.
//!
//! The addresses in use that a pool's status shows are a hint for candidates, never a decision: creating the claim decides.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use holdfast_api::{
    ippool::{Allocations, IpPoolSpec, SpiderIPPool},
    reserved::SpiderReservedIP,
};
use holdfast_core::pool::{AddressSet, Family, Pool, PoolError};
use kube::ResourceExt;
use parking_lot::RwLock;

/// A pool, parsed, and the use of its addresses that its status shows.
#[derive(Debug)]
pub struct CachedPool {
    /// The pool's name.
    pub name: String,
    /// The pool's spec.
    pub spec: IpPoolSpec,
    /// The addresses and geometry that the spec describes.
    pub parsed: Result<Pool, PoolError>,
    /// Addresses that the pool's status shows as used, each with its pod (`namespace/name`): a hint.
    pub in_use: HashMap<IpAddr, String>,
    /// True where the pool is being deleted.
    pub(crate) is_terminating: bool,
    /// True where another IPAM wrote the status: addresses that it gave out may have no claims yet.
    pub(crate) is_foreign: bool,
}

impl From<SpiderIPPool> for CachedPool {
    fn from(pool: SpiderIPPool) -> Self {
        let shown = pool.status.as_ref().and_then(|status| status.allocated_ips.as_deref());
        let shown: Allocations = shown.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        Self {
            name: pool.name_any(),
            parsed: pool.spec.parse(),
            in_use: shown.into_iter().filter_map(|(address, shown)| Some((address.parse().ok()?, shown.pod))).collect(),
            is_terminating: pool.metadata.deletion_timestamp.is_some(),
            is_foreign: pool.is_foreign(),
            spec: pool.spec,
        }
    }
}

impl CachedPool {
    /// Returns the pool's family; none where its spec cannot be parsed.
    pub(crate) fn family(&self) -> Option<Family> {
        self.parsed.as_ref().ok().map(Pool::family)
    }

    /// Returns the parsed pool where it contains `address`.
    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.parsed.as_ref().ok().filter(|pool| pool.addresses.contains(address))
    }
}

/// The cluster's pools and reserved addresses.
#[derive(Debug, Default)]
pub struct PoolCache {
    pub(crate) by_name: RwLock<BTreeMap<String, Arc<CachedPool>>>,
    pub(crate) reserved: RwLock<BTreeMap<String, Vec<AddressSet>>>,
    is_synced: AtomicBool,
}

impl PoolCache {
    /// Returns all pools by name.
    pub fn all(&self) -> BTreeMap<String, Arc<CachedPool>> {
        self.by_name.read().clone()
    }

    /// Returns true once the pools have been listed.
    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Relaxed)
    }

    pub(crate) fn set_synced(&self) {
        self.is_synced.store(true, Ordering::Relaxed);
    }

    /// Returns one pool.
    pub fn get(&self, name: &str) -> Option<Arc<CachedPool>> {
        self.by_name.read().get(name).cloned()
    }

    /// Returns true where a pool has a node selector, so that the node's labels are needed.
    pub(crate) fn has_node_selectors(&self) -> bool {
        self.by_name.read().values().any(|pool| pool.spec.node_affinity.is_some())
    }

    /// Returns true where a `SpiderReservedIP` contains the address.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.read().values().flatten().any(|set| set.contains(address))
    }

    /// Replaces the content by a fresh list.
    pub fn replace(&self, pools: Vec<SpiderIPPool>, reserved: &[SpiderReservedIP]) {
        let pools = pools.into_iter().map(|pool| (pool.name_any(), Arc::new(pool.into()))).collect();
        *self.by_name.write() = pools;
        let reserved = reserved.iter().map(|reserved| (reserved.name_any(), reserved_sets(reserved))).collect();
        *self.reserved.write() = reserved;
    }
}

/// Returns the addresses of a reservation. A text that is no address or range is left out; the others still count.
pub(crate) fn reserved_sets(reserved: &SpiderReservedIP) -> Vec<AddressSet> {
    let parse = |text: &String| {
        let set = Family::ALL.into_iter().find_map(|family| AddressSet::parse(family, &[text]).ok());
        if set.is_none() {
            tracing::warn!(object = %reserved.name_any(), %text, "an entry of a SpiderReservedIP is no address or range; it is left out");
        }
        set
    };
    reserved.spec.ips.iter().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_invalid_reservation_does_not_hide_the_others() {
        let cache = PoolCache::default();
        let spec = serde_json::from_value(json!({"ips": ["nonsense", "10.0.0.1-10.0.0.3", "fd00::1"]})).unwrap();
        cache.replace(Vec::new(), &[SpiderReservedIP::new("r", spec)]);
        assert!(cache.is_reserved("10.0.0.2".parse().unwrap()) && cache.is_reserved("fd00::1".parse().unwrap()));
        assert!(!cache.is_reserved("10.0.0.4".parse().unwrap()));
    }

    #[test]
    fn the_status_of_a_pool_shows_its_addresses_in_use() {
        let spec = serde_json::from_value(json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1-10.0.0.3"]})).unwrap();
        let mut pool = SpiderIPPool::new("a", spec);
        let shown = json!({"10.0.0.2": {"pod": "d/web-0"}, "nonsense": {"pod": "d/web-1"}});
        pool.status = serde_json::from_value(json!({"allocatedIPs": shown.to_string()})).unwrap();
        let cached = CachedPool::from(pool);
        let address = IpAddr::from([10, 0, 0, 2]);
        assert_eq!(cached.in_use, HashMap::from([(address, "d/web-0".to_owned())]));
        assert!(cached.is_foreign, "it has records and no condition of the controller");
        assert!(cached.pool_of(address).is_some() && cached.pool_of(IpAddr::from([10, 0, 0, 4])).is_none());
    }
}
