//! The watches that keep the pool cache as the API server has the objects.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::StreamExt;
use holdfast_api::{ippool::SpiderIPPool, reserved::SpiderReservedIP};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;

use crate::pool_cache::{PoolCache, reserved_sets};

impl PoolCache {
    /// Watches the pools for as long as it is polled, and calls `changed` after each change.
    pub async fn watch_pools(&self, client: Client, changed: impl Fn(&Self)) {
        let after = || {
            self.set_synced();
            changed(self);
        };
        watch(client, &self.by_name, |pool: SpiderIPPool| Arc::new(pool.into()), after).await;
    }

    /// Watches the reserved addresses for as long as it is polled.
    pub async fn watch_reserved_ips(&self, client: Client) {
        watch(client, &self.reserved, |reserved: SpiderReservedIP| reserved_sets(&reserved), || ()).await;
    }
}

/// Keeps `cached` as the API server has the objects of a kind; calls `changed` after each change. A new list replaces the
/// content at once, when it is complete.
async fn watch<K, V>(client: Client, cached: &RwLock<BTreeMap<String, V>>, parse: impl Fn(K) -> V, changed: impl Fn())
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff());
    let mut listed = BTreeMap::new();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "a watch was cut off and starts again");
                continue;
            }
        };
        match event {
            watcher::Event::Init => {
                listed = BTreeMap::new();
                continue;
            }
            watcher::Event::InitApply(object) => {
                listed.insert(object.name_any(), parse(object));
                continue;
            }
            watcher::Event::InitDone => *cached.write() = std::mem::take(&mut listed),
            watcher::Event::Apply(object) => drop(cached.write().insert(object.name_any(), parse(object))),
            watcher::Event::Delete(object) => drop(cached.write().remove(&object.name_any())),
        }
        changed();
    }
}
