//! The work list of a reconciliation: the objects that changed, and those that depend on them.

use std::collections::{HashMap, HashSet};

use holdfast_core::id::PodName;
use kube::ResourceExt;

use crate::{
    delay_queue::Requeue, endpoint_facts::is_ready, index::Index, pending_changes::Change, reflectors::Reflectors,
};

/// The objects that one reconciliation works on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkList {
    pub(crate) endpoints: HashSet<PodName>,
    pub(crate) claims: HashSet<String>,
    pub(crate) pools: HashSet<String>,
    /// True if the import of another IPAM's records is due.
    pub(crate) import: bool,
}

impl WorkList {
    pub(crate) fn add(&mut self, item: Requeue) {
        match item {
            Requeue::Endpoint(name) => drop(self.endpoints.insert(name)),
            Requeue::Claim(name) => drop(self.claims.insert(name)),
            Requeue::Pool(name) => drop(self.pools.insert(name)),
            Requeue::Import => self.import = true,
        }
    }
}

/// The state against which changes are compared. It ends with this replica's leadership.
#[derive(Debug, Default)]
pub(crate) struct ChangeTracker {
    pub(crate) index: Index,
    /// The readiness of each node.
    ready_nodes: HashMap<String, bool>,
    /// The generation of each pool's spec.
    pool_generations: HashMap<String, Option<i64>>,
}

impl ChangeTracker {
    /// Updates the index with every object that is in the caches or was there before, and adds them all to `work`.
    pub(crate) fn apply_all(&mut self, reflectors: &Reflectors, work: &mut WorkList) {
        let endpoints = reflectors.endpoints.state();
        let known: HashSet<_> =
            endpoints.iter().map(|endpoint| endpoint.pod()).chain(self.index.endpoints().cloned()).collect();
        for name in known {
            self.apply(Change::Endpoint(name), reflectors, work);
        }
        let claims = reflectors.claims.state();
        let known: HashSet<_> =
            claims.iter().map(|claim| claim.name_any()).chain(self.index.claims().cloned()).collect();
        for name in known {
            self.apply(Change::Claim(name), reflectors, work);
        }
        let nodes = reflectors.nodes.state();
        let known: HashSet<_> =
            nodes.iter().map(|node| node.name_any()).chain(self.ready_nodes.keys().cloned()).collect();
        for name in known {
            self.apply(Change::Node(name), reflectors, work);
        }
        add_all_pools(reflectors, work);
    }

    /// Updates the index with one change, and adds the objects that depend on it to `work`.
    pub(crate) fn apply(&mut self, change: Change, reflectors: &Reflectors, work: &mut WorkList) {
        match change {
            Change::Endpoint(name) => {
                let dependents = self.index.set_endpoint(&name, reflectors.endpoint(&name).as_deref());
                work.claims.extend(dependents.claims);
                work.pools.extend(dependents.pools);
                work.endpoints.insert(name);
            }
            Change::Claim(name) => {
                let dependents = self.index.set_claim(&name, reflectors.claim(&name).as_deref());
                work.endpoints.extend(dependents.endpoints);
                work.pools.extend(dependents.pools);
                work.claims.insert(name);
            }
            Change::Pod(name) => {
                // The cooldown of an unlisted claim depends on the presence of its endpoint's pod.
                work.claims.extend(self.index.claims_of_endpoint(&name).cloned());
                work.endpoints.insert(name);
            }
            Change::StatefulSet(name) => work.endpoints.extend(self.index.endpoints_of_set(&name).cloned()),
            Change::Node(name) => self.apply_node(&name, reflectors, work),
            Change::Reserved => add_all_pools(reflectors, work),
            Change::Pool(name) => self.apply_pool(name, reflectors, work),
        }
    }

    /// Most changes of a node are its kubelet's heartbeat: only those of its readiness count.
    fn apply_node(&mut self, name: &str, reflectors: &Reflectors, work: &mut WorkList) {
        let ready = reflectors.node(name).map(|node| is_ready(&node));
        let dependents = self.index.endpoints_of_node(name).cloned();
        let before = match ready {
            Some(ready) => self.ready_nodes.insert(name.to_owned(), ready),
            None => self.ready_nodes.remove(name),
        };
        if before != ready {
            work.endpoints.extend(dependents);
        }
    }

    /// Another spec may overlap with other pools, or not any more. Another status changes no addresses.
    fn apply_pool(&mut self, name: String, reflectors: &Reflectors, work: &mut WorkList) {
        let generation = reflectors.pool(&name).map(|pool| pool.metadata.generation);
        let before = match generation {
            Some(generation) => self.pool_generations.insert(name.clone(), generation),
            None => self.pool_generations.remove(&name),
        };
        if before != generation {
            add_all_pools(reflectors, work);
        }
        work.pools.insert(name);
    }
}

fn add_all_pools(reflectors: &Reflectors, work: &mut WorkList) {
    work.pools.extend(reflectors.pools.state().iter().map(|pool| pool.name_any()));
}

#[cfg(test)]
mod tests {
    use holdfast_api::{
        claim::IPClaim,
        endpoint::{EndpointIp, EndpointStatus, Holder, STATEFUL_SET, SpiderEndpoint},
        ippool::SpiderIPPool,
    };
    use k8s_openapi::api::core::v1::Node;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::reflectors::Writers;

    fn endpoint(name: &str, address: &str) -> SpiderEndpoint {
        let mut endpoint = SpiderEndpoint::for_pod(&PodName::new("d", name));
        let ip = EndpointIp { ipv4: Some(format!("{address}/24")), ..EndpointIp::default() };
        endpoint.status = Some(EndpointStatus {
            current: Holder { ips: vec![ip], node: "n1".into(), ..Holder::default() },
            owner_controller_type: STATEFUL_SET.into(),
            owner_controller_name: "web".into(),
            ..EndpointStatus::default()
        });
        endpoint
    }

    fn claim(address: &str, endpoint: &str) -> IPClaim {
        IPClaim::held(address.parse().unwrap(), "p", &PodName::new("d", endpoint))
    }

    fn pool(name: &str, generation: i64) -> SpiderIPPool {
        let mut pool = SpiderIPPool::new(name, serde_json::from_value(json!({"subnet": "10.0.0.0/24"})).unwrap());
        pool.metadata.generation = Some(generation);
        pool
    }

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}
        }))
        .unwrap()
    }

    /// A cluster of one StatefulSet's pod, its claim, node and pool, and a tracker that has seen it.
    fn cluster() -> (ChangeTracker, Reflectors, Writers) {
        let (reflectors, mut writers) = Reflectors::new();
        writers.endpoints.apply_watcher_event(&Event::Apply(endpoint("web-0", "10.0.0.1")));
        writers.claims.apply_watcher_event(&Event::Apply(claim("10.0.0.1", "web-0")));
        writers.nodes.apply_watcher_event(&Event::Apply(node("True")));
        writers.pools.apply_watcher_event(&Event::Apply(pool("p", 1)));
        let mut tracker = ChangeTracker::default();
        tracker.apply_all(&reflectors, &mut WorkList::default());
        (tracker, reflectors, writers)
    }

    fn apply(tracker: &mut ChangeTracker, change: Change, reflectors: &Reflectors) -> WorkList {
        let mut work = WorkList::default();
        tracker.apply(change, reflectors, &mut work);
        work
    }

    fn work(endpoints: &[&str], claims: &[&str], pools: &[&str]) -> WorkList {
        WorkList {
            endpoints: endpoints.iter().map(|name| PodName::new("d", *name)).collect(),
            claims: claims.iter().map(ToString::to_string).collect(),
            pools: pools.iter().map(ToString::to_string).collect(),
            import: false,
        }
    }

    #[test]
    fn a_full_scan_works_on_every_object_and_on_those_that_are_gone() {
        let (mut tracker, reflectors, mut writers) = cluster();
        writers.endpoints.apply_watcher_event(&Event::Delete(endpoint("web-0", "10.0.0.1")));
        writers.claims.apply_watcher_event(&Event::Apply(claim("10.0.0.2", "web-1")));
        let mut all = WorkList::default();
        tracker.apply_all(&reflectors, &mut all);
        assert_eq!(all, work(&["web-0"], &["10.0.0.1", "10.0.0.2"], &["p"]));
    }

    #[test]
    fn an_endpoint_concerns_its_claims_and_their_pools() {
        let (mut tracker, reflectors, _writers) = cluster();
        let change = Change::Endpoint(PodName::new("d", "web-0"));
        assert_eq!(apply(&mut tracker, change, &reflectors), work(&["web-0"], &["10.0.0.1"], &["p"]));
    }

    #[test]
    fn a_claim_concerns_the_endpoint_that_lists_it_and_its_pool() {
        let (mut tracker, reflectors, mut writers) = cluster();
        writers.claims.apply_watcher_event(&Event::Delete(claim("10.0.0.1", "web-0")));
        let change = Change::Claim("10.0.0.1".to_owned());
        assert_eq!(apply(&mut tracker, change, &reflectors), work(&["web-0"], &["10.0.0.1"], &["p"]));
    }

    #[test]
    fn a_pod_and_a_stateful_set_concern_their_endpoints() {
        let (mut tracker, reflectors, _writers) = cluster();
        let change = Change::Pod(PodName::new("d", "web-0"));
        assert_eq!(apply(&mut tracker, change, &reflectors), work(&["web-0"], &["10.0.0.1"], &[]));
        let change = Change::StatefulSet(PodName::new("d", "web"));
        assert_eq!(apply(&mut tracker, change, &reflectors), work(&["web-0"], &[], &[]));
    }

    #[test]
    fn a_node_counts_only_when_its_readiness_changes() {
        let (mut tracker, reflectors, mut writers) = cluster();
        let change = || Change::Node("n1".to_owned());
        assert_eq!(apply(&mut tracker, change(), &reflectors), work(&[], &[], &[]), "a heartbeat");
        writers.nodes.apply_watcher_event(&Event::Apply(node("Unknown")));
        assert_eq!(apply(&mut tracker, change(), &reflectors), work(&["web-0"], &[], &[]));
        writers.nodes.apply_watcher_event(&Event::Delete(node("Unknown")));
        assert_eq!(apply(&mut tracker, change(), &reflectors), work(&["web-0"], &[], &[]));
        assert_eq!(apply(&mut tracker, change(), &reflectors), work(&[], &[], &[]));
    }

    #[test]
    fn a_pool_concerns_all_pools_only_when_its_spec_changes() {
        let (mut tracker, reflectors, mut writers) = cluster();
        let change = |name: &str| Change::Pool(name.to_owned());
        apply(&mut tracker, change("p"), &reflectors);
        writers.pools.apply_watcher_event(&Event::Apply(pool("q", 1)));
        assert_eq!(apply(&mut tracker, change("q"), &reflectors), work(&[], &[], &["p", "q"]), "a new pool");
        assert_eq!(apply(&mut tracker, change("q"), &reflectors), work(&[], &[], &["q"]), "a new status");
        writers.pools.apply_watcher_event(&Event::Apply(pool("q", 2)));
        assert_eq!(apply(&mut tracker, change("q"), &reflectors), work(&[], &[], &["p", "q"]), "a new spec");
        assert_eq!(apply(&mut tracker, Change::Reserved, &reflectors), work(&[], &[], &["p", "q"]));
    }
}
