//! The rules by which a pod may use a pool.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use holdfast_core::pool::Family;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::{
    pool_cache::CachedPool,
    pool_selection::{PoolSelection, PoolSource},
};

type Labels = BTreeMap<String, String>;

/// The properties of a pod that pools select by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodContext<'a> {
    /// The pod's namespace.
    pub(crate) namespace: &'a str,
    /// The namespace's labels.
    pub(crate) namespace_labels: &'a Labels,
    /// The pod's labels.
    pub(crate) pod_labels: &'a Labels,
    /// The node's name.
    pub(crate) node: &'a str,
    /// The node's labels.
    pub(crate) node_labels: &'a Labels,
    /// The name of the CNI network: a network attachment's name where Multus calls.
    pub(crate) network: &'a str,
}

/// The reasons why a pod may use no pool of one family.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no {family} pool for it in {named_by}: {}", .reasons.join("; "))]
pub struct NoPool {
    family: Family,
    named_by: PoolSource,
    reasons: Vec<String>,
}

/// Returns the pools of `family` that the pod may use, in the order to try them. Returns an empty list where the selection
/// leaves the family out.
pub(crate) fn eligible_pools(
    pools: &BTreeMap<String, Arc<CachedPool>>,
    selection: &PoolSelection,
    family: Family,
    context: &PodContext<'_>,
) -> Result<Vec<Arc<CachedPool>>, NoPool> {
    let (mut eligible, mut reasons) = (Vec::new(), Vec::new());
    for selected in selected_pools(pools, selection.names(family), family) {
        match selected {
            Ok(pool) => match ineligible_reason(&pool, family, context) {
                None => eligible.push(pool),
                Some(why) => reasons.push(format!("pool {} {why}", pool.name)),
            },
            Err(missing) => reasons.push(missing),
        }
    }
    if eligible.is_empty() && !reasons.is_empty() {
        return Err(NoPool { family, named_by: selection.source, reasons });
    }
    Ok(eligible)
}

/// Returns the pools that `names` and patterns select, in that order; without names, those marked `default`. A name that
/// selects no pool gives a sentence instead.
fn selected_pools(
    pools: &BTreeMap<String, Arc<CachedPool>>,
    names: Option<&[String]>,
    family: Family,
) -> Vec<Result<Arc<CachedPool>, String>> {
    let Some(names) = names else {
        let default = pools.values().filter(|pool| pool.spec.default && pool.family() == Some(family));
        return default.cloned().map(Ok).collect();
    };
    let mut seen = HashSet::new();
    let mut selected = Vec::new();
    for name in names {
        let matches: Vec<_> = match glob::Pattern::new(name) {
            Ok(pattern) => pools.values().filter(|pool| pattern.matches(&pool.name)).cloned().collect(),
            Err(error) => {
                selected.push(Err(format!("{name:?} is no pattern: {error}")));
                continue;
            }
        };
        if matches.is_empty() {
            selected.push(Err(format!("pool {name:?} does not exist")));
        }
        selected.extend(matches.into_iter().filter(|pool| seen.insert(pool.name.clone())).map(Ok));
    }
    selected
}

/// Returns the reason why the pod may not use the pool; none where it may.
fn ineligible_reason(cached: &CachedPool, family: Family, context: &PodContext<'_>) -> Option<String> {
    let spec = &cached.spec;
    let pool = match &cached.parsed {
        Ok(pool) => pool,
        Err(error) => return Some(format!("cannot be used: {error}")),
    };
    if pool.family() != family {
        return Some(format!("is an {} pool", pool.family()));
    }
    if cached.is_terminating {
        return Some("is being deleted".to_owned());
    }
    if spec.disable {
        return Some("is disabled".to_owned());
    }
    if cached.is_foreign {
        let wait = "has records of another IPAM; the controller has to make claims for its addresses first";
        return Some(wait.to_owned());
    }
    let PodContext { namespace, namespace_labels, pod_labels, node, node_labels, network } = *context;
    let attachment = format!("{namespace}/{network}");
    if !spec.multus_name.is_empty() && !spec.multus_name.iter().any(|name| *name == attachment || name == network) {
        return Some(format!("is for networks {}, not {network}", spec.multus_name.join(", ")));
    }
    let of_node = name_or_label_mismatch("node", &spec.node_name, spec.node_affinity.as_ref(), node, node_labels);
    let of_namespace = || {
        let affinity = spec.namespace_affinity.as_ref();
        name_or_label_mismatch("namespace", &spec.namespace_name, affinity, namespace, namespace_labels)
    };
    let of_pod = || name_or_label_mismatch("pod", &[], spec.pod_affinity.as_ref(), "this one", pod_labels);
    of_node.or_else(of_namespace).or_else(of_pod)
}

/// Returns the reason why an object is not among those that a pool is for. Names take precedence: where a pool lists names,
/// its selector does not count.
fn name_or_label_mismatch(
    kind: &str,
    names: &[String],
    affinity: Option<&LabelSelector>,
    name: &str,
    labels: &Labels,
) -> Option<String> {
    if !names.is_empty() {
        let is_listed = names.iter().any(|listed| listed == name);
        return (!is_listed).then(|| format!("is for {kind} {}, not {name}", names.join(", ")));
    }
    let affinity = affinity?;
    match Selector::try_from(affinity.clone()) {
        Ok(selector) if selector.matches(labels) => None,
        Ok(selector) => Some(format!("is for {kind}s with labels {selector}, which {name} does not have")),
        Err(error) => Some(format!("has a {kind} selector that cannot be used: {error}")),
    }
}

#[cfg(test)]
mod tests;
