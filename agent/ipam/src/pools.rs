//! The pools and reserved addresses, as the last watch events showed them, and which pools an interface may use.
//!
//! The addresses in use that a pool's status shows are a hint for proposals, never a decision: creating the claim decides.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt;
use holdfast_api::{
    ippool::{Allocations, IpPoolSpec, SpiderIPPool},
    reserved::SpiderReservedIP,
};
use holdfast_core::pool::{AddressSet, Family, Pool, PoolError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{Selector, SelectorExt},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;

use crate::pool_selection::{PoolSelection, PoolSource};

type Labels = BTreeMap<String, String>;

/// A pool and what is known of its use.
#[derive(Debug)]
pub struct CachedPool {
    /// Its name.
    pub name: String,
    /// What its author wrote.
    pub spec: IpPoolSpec,
    /// What that means.
    pub parsed: Result<Pool, PoolError>,
    /// Addresses that the pool's status shows as used, and for which pod: a hint.
    pub in_use: HashMap<IpAddr, String>,
    terminating: bool,
    foreign: bool,
}

impl From<SpiderIPPool> for CachedPool {
    fn from(pool: SpiderIPPool) -> Self {
        let shown = pool.status.as_ref().and_then(|status| status.allocated_ips.as_deref());
        let shown: Allocations = shown.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        Self {
            name: pool.name_any(),
            parsed: pool.spec.parse(),
            in_use: shown.into_iter().filter_map(|(address, shown)| Some((address.parse().ok()?, shown.pod))).collect(),
            terminating: pool.metadata.deletion_timestamp.is_some(),
            foreign: pool.is_foreign(),
            spec: pool.spec,
        }
    }
}

/// Who asks for a pool.
#[derive(Debug, Clone, Copy)]
pub struct PodContext<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The namespace's labels.
    pub namespace_labels: &'a Labels,
    /// The pod's labels.
    pub pod_labels: &'a Labels,
    /// The node.
    pub node: &'a str,
    /// The node's labels.
    pub node_labels: &'a Labels,
    /// The name of the CNI network: a network attachment's name where Multus calls.
    pub network: &'a str,
}

/// No pool may be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no {family} pool for it in {from}: {}", .reasons.join("; "))]
pub struct NoPool {
    family: Family,
    from: PoolSource,
    reasons: Vec<String>,
}

/// The pools and reserved addresses of the cluster.
#[derive(Debug, Default)]
pub struct PoolCache {
    by_name: RwLock<BTreeMap<String, Arc<CachedPool>>>,
    reserved: RwLock<BTreeMap<String, Vec<AddressSet>>>,
    synced: AtomicBool,
}

impl PoolCache {
    /// All pools by name.
    pub fn all(&self) -> BTreeMap<String, Arc<CachedPool>> {
        self.by_name.read().clone()
    }

    /// Whether the pools have been listed once.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// One pool.
    pub fn get(&self, name: &str) -> Option<Arc<CachedPool>> {
        self.by_name.read().get(name).cloned()
    }

    /// Whether a pool is for nodes with certain labels.
    pub fn any_by_node_labels(&self) -> bool {
        self.all().values().any(|pool| pool.spec.node_affinity.is_some())
    }

    /// Whether an address is reserved.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        let reserved = self.reserved.read();
        reserved.values().flatten().any(|set| set.contains(address))
    }

    /// Replaces everything by what was just listed.
    pub fn replace(&self, pools: Vec<SpiderIPPool>, reserved: &[SpiderReservedIP]) {
        let pools = pools.into_iter().map(|pool| (pool.name_any(), Arc::new(pool.into()))).collect();
        *self.by_name.write() = pools;
        let reserved = reserved.iter().map(|reserved| (reserved.name_any(), sets_of(reserved))).collect();
        *self.reserved.write() = reserved;
    }

    /// The pools of `family` that `context` may use, in the order to try them. Empty where the choice leaves the
    /// family out.
    pub fn candidates(
        &self,
        selection: &PoolSelection,
        family: Family,
        context: &PodContext<'_>,
    ) -> Result<Vec<Arc<CachedPool>>, NoPool> {
        let pools = self.all();
        let mut reasons = Vec::new();
        let mut fit = Vec::new();
        for named in named(&pools, selection.names(family), family) {
            match named {
                Ok(pool) => match pool.ineligible_reason(family, context) {
                    None => fit.push(pool),
                    Some(why) => reasons.push(format!("pool {} {why}", pool.name)),
                },
                Err(missing) => reasons.push(missing),
            }
        }
        if fit.is_empty() && !reasons.is_empty() {
            return Err(NoPool { family, from: selection.source, reasons });
        }
        Ok(fit)
    }

    /// Follows the pools, for as long as it is polled.
    pub async fn watch_pools(&self, client: Client, changed: impl Fn(&Self)) {
        let after = || {
            self.synced.store(true, Ordering::Relaxed);
            changed(self);
        };
        watch(client, &self.by_name, |pool: SpiderIPPool| Arc::new(pool.into()), after).await;
    }

    /// Follows the reserved addresses, for as long as it is polled.
    pub async fn watch_reserved_ips(&self, client: Client) {
        watch(client, &self.reserved, |reserved: SpiderReservedIP| sets_of(&reserved), || ()).await;
    }
}

/// Keeps `known` as the API server has it; calls `changed` after each change.
async fn watch<K, V>(client: Client, known: &RwLock<BTreeMap<String, V>>, parse: impl Fn(K) -> V, changed: impl Fn())
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
        let lock = || known.write();
        match event {
            watcher::Event::Init => {
                listed = BTreeMap::new();
                continue;
            }
            watcher::Event::InitApply(object) => {
                listed.insert(object.name_any(), parse(object));
                continue;
            }
            watcher::Event::InitDone => *lock() = std::mem::take(&mut listed),
            watcher::Event::Apply(object) => drop(lock().insert(object.name_any(), parse(object))),
            watcher::Event::Delete(object) => drop(lock().remove(&object.name_any())),
        }
        changed();
    }
}

/// What a reservation holds. A text that is no address reserves nothing; the rest of the object still counts.
fn sets_of(reserved: &SpiderReservedIP) -> Vec<AddressSet> {
    let parse = |text: &String| {
        let set = Family::ALL.into_iter().find_map(|family| AddressSet::parse(family, &[text]).ok());
        if set.is_none() {
            tracing::warn!(object = %reserved.name_any(), %text, "a reservation that is no address or range is left out");
        }
        set
    };
    reserved.spec.ips.iter().filter_map(parse).collect()
}

/// The pools that `names` stand for, in that order; without names, those marked `default`.
fn named(
    pools: &BTreeMap<String, Arc<CachedPool>>,
    names: Option<&[String]>,
    family: Family,
) -> Vec<Result<Arc<CachedPool>, String>> {
    let Some(names) = names else {
        let default = pools.values().filter(|pool| pool.spec.default && pool.family() == Some(family));
        return default.cloned().map(Ok).collect();
    };
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for name in names {
        let matches: Vec<_> = match glob::Pattern::new(name) {
            Ok(pattern) => pools.values().filter(|pool| pattern.matches(&pool.name)).cloned().collect(),
            Err(error) => {
                found.push(Err(format!("{name:?} is no pattern: {error}")));
                continue;
            }
        };
        if matches.is_empty() {
            found.push(Err(format!("pool {name:?} does not exist")));
        }
        found.extend(matches.into_iter().filter(|pool| seen.insert(pool.name.clone())).map(Ok));
    }
    found
}

impl CachedPool {
    fn family(&self) -> Option<Family> {
        self.parsed.as_ref().ok().map(Pool::family)
    }

    /// Why `context` may not use the pool; none where it may.
    fn ineligible_reason(&self, family: Family, context: &PodContext<'_>) -> Option<String> {
        let spec = &self.spec;
        let pool = match &self.parsed {
            Ok(pool) => pool,
            Err(error) => return Some(format!("cannot be used: {error}")),
        };
        if pool.family() != family {
            return Some(format!("is an {} pool", pool.family()));
        }
        if self.terminating {
            return Some("is being deleted".to_owned());
        }
        if spec.disable {
            return Some("is disabled".to_owned());
        }
        if self.foreign {
            let wait = "has records of another IPAM; the controller has to make claims for its addresses first";
            return Some(wait.to_owned());
        }
        let attachment = format!("{}/{}", context.namespace, context.network);
        let networks = |name: &String| *name == attachment || name == context.network;
        if !spec.multus_name.is_empty() && !spec.multus_name.iter().any(networks) {
            return Some(format!("is for networks {}, not {}", spec.multus_name.join(", "), context.network));
        }
        by_name_or_label("node", &spec.node_name, spec.node_affinity.as_ref(), context.node, context.node_labels)
            .or_else(|| {
                let affinity = spec.namespace_affinity.as_ref();
                by_name_or_label(
                    "namespace",
                    &spec.namespace_name,
                    affinity,
                    context.namespace,
                    context.namespace_labels,
                )
            })
            .or_else(|| by_name_or_label("pod", &[], spec.pod_affinity.as_ref(), "this one", context.pod_labels))
    }
}

/// Names go before labels: where a pool lists names, its selector does not count.
fn by_name_or_label(
    what: &str,
    names: &[String],
    affinity: Option<&LabelSelector>,
    name: &str,
    labels: &Labels,
) -> Option<String> {
    if !names.is_empty() {
        let fits = names.iter().any(|listed| listed == name);
        return (!fits).then(|| format!("is for {what} {}, not {name}", names.join(", ")));
    }
    let affinity = affinity?;
    match Selector::try_from(affinity.clone()) {
        Ok(selector) if selector.matches(labels) => None,
        Ok(selector) => Some(format!("is for {what}s with labels {selector}, which {name} does not have")),
        Err(error) => Some(format!("has a {what} selector that cannot be used: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use holdfast_cni::Ipam;
    use serde_json::json;

    use super::*;

    static NONE: LazyLock<Labels> = LazyLock::new(Labels::new);

    fn pools(specs: &[(&str, serde_json::Value)]) -> PoolCache {
        let pools = specs.iter().map(|(name, spec)| {
            let mut spec = spec.clone();
            spec["subnet"] = json!("10.0.0.0/24");
            SpiderIPPool::new(name, serde_json::from_value(spec).unwrap())
        });
        let known = PoolCache::default();
        known.replace(pools.collect(), &[]);
        known
    }

    fn ask(pools: &PoolCache, names: &[&str]) -> Result<Vec<String>, String> {
        let conf = Ipam {
            default_ipv4_ippool: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            ..Ipam::default()
        };
        let selection = PoolSelection::of(&NONE, &NONE, &conf, &"eth0".parse().unwrap()).unwrap();
        let context = PodContext {
            namespace: "default",
            namespace_labels: &NONE,
            pod_labels: &NONE,
            node: "node1",
            node_labels: &NONE,
            network: "lan",
        };
        let found = pools.candidates(&selection, Family::V4, &context);
        found.map(|found| found.iter().map(|pool| pool.name.clone()).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_keep_their_order_and_patterns_match() {
        let known = pools(&[("a1", json!({})), ("a2", json!({})), ("b", json!({})), ("d", json!({"default": true}))]);
        assert_eq!(ask(&known, &["b", "a?", "a1"]).unwrap(), ["b", "a1", "a2"]);
        assert_eq!(ask(&known, &["a[2-9]"]).unwrap(), ["a2"]);
        assert_eq!(ask(&known, &[]).unwrap(), ["d"]);
    }

    #[test]
    fn a_refusal_names_each_pool_and_why() {
        let known = pools(&[
            ("off", json!({"disable": true})),
            ("far", json!({"nodeName": ["node2"], "nodeAffinity": {"matchLabels": {}}})),
            ("picky", json!({"podAffinity": {"matchLabels": {"app": "web"}}})),
            ("multus", json!({"multusName": ["kube-system/other"]})),
            ("elsewhere", json!({"namespaceName": ["prod"]})),
            ("broken", json!({"ips": ["x"]})),
        ]);
        let error = ask(&known, &["off", "far", "picky", "multus", "elsewhere", "broken", "nope"]).unwrap_err();
        for word in [
            "off is disabled",
            "far is for node node2",
            "picky is for pods with labels app=web",
            "kube-system/other",
            "elsewhere is for namespace prod",
            "broken cannot be used",
            "\"nope\" does not exist",
            "CNI configuration",
        ] {
            assert!(error.contains(word), "{word} in {error}");
        }
    }

    #[test]
    fn reservations_count_and_broken_ones_do_not_hide_the_rest() {
        let known = PoolCache::default();
        let spec = serde_json::from_value(json!({"ips": ["nonsense", "10.0.0.1-10.0.0.3", "fd00::1"]})).unwrap();
        known.replace(Vec::new(), &[SpiderReservedIP::new("r", spec)]);
        assert!(known.is_reserved("10.0.0.2".parse().unwrap()) && known.is_reserved("fd00::1".parse().unwrap()));
        assert!(!known.is_reserved("10.0.0.4".parse().unwrap()));
    }
}
