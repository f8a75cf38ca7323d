//! The relations between endpoints, their StatefulSets and nodes, and claims, their endpoints and pools. Each change
//! updates the index, so the cost of a reconciliation depends on the changes and not on the size of the cluster.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

use holdfast_api::{
    claim::{ClaimState, IPClaim, name_of},
    endpoint::SpiderEndpoint,
};
use holdfast_core::id::PodName;
use kube::ResourceExt;

/// The indexed fields of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexedEndpoint {
    addresses: Vec<IpAddr>,
    stateful_set: Option<PodName>,
    node: String,
}

/// The indexed fields of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexedClaim {
    pub(crate) address: IpAddr,
    pub(crate) pool: String,
    pub(crate) endpoint: Option<PodName>,
    pub(crate) released: bool,
    /// True if the claim's name is its address. Only such a claim locks the address.
    pub(crate) locks_address: bool,
}

/// The index over endpoints and claims.
#[derive(Debug, Default)]
pub(crate) struct Index {
    endpoints: HashMap<PodName, IndexedEndpoint>,
    claims: HashMap<String, IndexedClaim>,
    endpoints_by_set: Groups<PodName, PodName>,
    endpoints_by_node: Groups<String, PodName>,
    endpoints_by_address: Groups<IpAddr, PodName>,
    claims_by_endpoint: Groups<PodName, String>,
    claims_by_pool: Groups<String, String>,
}

impl Index {
    /// Replaces an endpoint by its present state; none if it is gone. Returns the claims and pools that depend on it.
    pub(crate) fn set_endpoint(&mut self, name: &PodName, endpoint: Option<&SpiderEndpoint>) -> EndpointDependents {
        if let Some(before) = self.endpoints.remove(name) {
            if let Some(set) = &before.stateful_set {
                self.endpoints_by_set.remove(set, name);
            }
            self.endpoints_by_node.remove(&before.node, name);
            for address in &before.addresses {
                self.endpoints_by_address.remove(address, name);
            }
        }
        if let Some(endpoint) = endpoint {
            let record = endpoint.record();
            let set = || PodName::new(&name.namespace, &record.owner_controller_name);
            let indexed = IndexedEndpoint {
                addresses: endpoint.addresses(),
                stateful_set: record.is_sticky().then(set),
                node: record.current.node.clone(),
            };
            if let Some(set) = &indexed.stateful_set {
                self.endpoints_by_set.add(set.clone(), name.clone());
            }
            self.endpoints_by_node.add(indexed.node.clone(), name.clone());
            for address in &indexed.addresses {
                self.endpoints_by_address.add(*address, name.clone());
            }
            self.endpoints.insert(name.clone(), indexed);
        }
        let claims: Vec<_> = self.claims_by_endpoint.get(name).cloned().collect();
        let pools = claims.iter().filter_map(|claim| Some(self.claims.get(claim)?.pool.clone())).collect();
        EndpointDependents { claims, pools }
    }

    /// Replaces a claim by its present state; none if it is gone. Returns the endpoints and pools that depend on it.
    pub(crate) fn set_claim(&mut self, name: &str, claim: Option<&IPClaim>) -> ClaimDependents {
        let mut pools = Vec::new();
        let before = self.claims.remove(name);
        let addresses = [before.as_ref().map(|claim| claim.address), claim.map(|claim| claim.spec.address)];
        let listing = addresses.iter().flatten().flat_map(|address| self.endpoints_by_address.get(address));
        let endpoints = listing.cloned().collect();
        if let Some(before) = before {
            self.claims_by_pool.remove(&before.pool, name);
            if let Some(endpoint) = &before.endpoint {
                self.claims_by_endpoint.remove(endpoint, name);
            }
            pools.push(before.pool);
        }
        if let Some(claim) = claim {
            let indexed = IndexedClaim {
                address: claim.spec.address,
                pool: claim.spec.pool.clone(),
                endpoint: claim.endpoint(),
                released: claim.spec.state == ClaimState::Released,
                locks_address: claim.name_any() == name_of(claim.spec.address),
            };
            if !pools.contains(&indexed.pool) {
                pools.push(indexed.pool.clone());
            }
            self.claims_by_pool.add(indexed.pool.clone(), name.to_owned());
            if let Some(endpoint) = &indexed.endpoint {
                self.claims_by_endpoint.add(endpoint.clone(), name.to_owned());
            }
            self.claims.insert(name.to_owned(), indexed);
        }
        ClaimDependents { endpoints, pools }
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&IndexedClaim> {
        self.claims.get(name)
    }

    /// Returns whether the claim's endpoint lists its address.
    pub(crate) fn is_listed(&self, claim: &IndexedClaim) -> bool {
        let endpoint = claim.endpoint.as_ref().and_then(|endpoint| self.endpoints.get(endpoint));
        claim.locks_address && endpoint.is_some_and(|endpoint| endpoint.addresses.contains(&claim.address))
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &PodName> {
        self.endpoints.keys()
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &String> {
        self.claims.keys()
    }

    pub(crate) fn endpoints_of_set(&self, set: &PodName) -> impl Iterator<Item = &PodName> {
        self.endpoints_by_set.get(set)
    }

    pub(crate) fn endpoints_of_node(&self, node: &str) -> impl Iterator<Item = &PodName> {
        self.endpoints_by_node.get(node)
    }

    pub(crate) fn claims_of_endpoint(&self, endpoint: &PodName) -> impl Iterator<Item = &String> {
        self.claims_by_endpoint.get(endpoint)
    }

    pub(crate) fn claims_of_pool(&self, pool: &str) -> impl Iterator<Item = &IndexedClaim> {
        self.claims_by_pool.get(pool).filter_map(|claim| self.claims.get(claim))
    }
}

/// The objects that depend on an endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointDependents {
    pub(crate) claims: Vec<String>,
    pub(crate) pools: Vec<String>,
}

/// The objects that depend on a claim.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimDependents {
    /// The endpoints that list its address.
    pub(crate) endpoints: BTreeSet<PodName>,
    pub(crate) pools: Vec<String>,
}

/// Members by group.
#[derive(Debug)]
struct Groups<G, M>(HashMap<G, BTreeSet<M>>);

impl<G, M> Default for Groups<G, M> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<G: Hash + Eq, M: Ord> Groups<G, M> {
    fn add(&mut self, group: G, member: M) {
        self.0.entry(group).or_default().insert(member);
    }

    fn remove<Q, R>(&mut self, group: &Q, member: &R)
    where
        G: std::borrow::Borrow<Q>,
        M: std::borrow::Borrow<R>,
        Q: Hash + Eq + ?Sized,
        R: Ord + ?Sized,
    {
        if let Some(members) = self.0.get_mut(group) {
            members.remove(member);
            if members.is_empty() {
                self.0.remove(group);
            }
        }
    }

    fn get<Q>(&self, group: &Q) -> impl Iterator<Item = &M>
    where
        G: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(group).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_api::endpoint::{EndpointIp, EndpointStatus, Holder, STATEFUL_SET};

    use super::*;

    fn endpoint(name: &PodName, address: &str) -> SpiderEndpoint {
        let mut endpoint = SpiderEndpoint::for_pod(name);
        let ip = EndpointIp { ipv4: Some(format!("{address}/24")), ..EndpointIp::default() };
        endpoint.status = Some(EndpointStatus {
            current: Holder { ips: vec![ip], node: "n1".into(), ..Holder::default() },
            owner_controller_type: STATEFUL_SET.into(),
            owner_controller_name: "web".into(),
            ..EndpointStatus::default()
        });
        endpoint
    }

    #[test]
    fn the_index_follows_each_change() {
        let (mut index, pod) = (Index::default(), PodName::new("d", "web-0"));
        let claim = IPClaim::held("10.0.0.1".parse().unwrap(), "p", &pod);
        assert_eq!(index.set_claim("10.0.0.1", Some(&claim)).pools, ["p"]);
        let is_listed = |index: &Index| index.is_listed(index.claim("10.0.0.1").unwrap());
        assert!(!is_listed(&index));
        let dependents = index.set_endpoint(&pod, Some(&endpoint(&pod, "10.0.0.1")));
        assert_eq!(dependents, EndpointDependents { claims: vec!["10.0.0.1".into()], pools: vec!["p".into()] });
        assert!(is_listed(&index));
        assert_eq!(index.endpoints_of_set(&PodName::new("d", "web")).count(), 1);
        assert_eq!(index.endpoints_of_node("n1").count(), 1);
        assert_eq!(index.set_claim("10.0.0.1", Some(&claim)).endpoints, [pod.clone()].into());
        index.set_endpoint(&pod, Some(&endpoint(&pod, "10.0.0.2")));
        assert!(!is_listed(&index));
        index.set_endpoint(&pod, None);
        assert_eq!(index.endpoints_of_node("n1").count() + index.endpoints().count(), 0);
        assert_eq!(
            index.set_claim("10.0.0.1", None),
            ClaimDependents { endpoints: [].into(), pools: vec!["p".into()] }
        );
        assert_eq!(index.claims_of_pool("p").count() + index.claims_of_endpoint(&pod).count(), 0);
    }

    #[test]
    fn a_claim_that_is_not_named_after_its_address_locks_nothing() {
        let (mut index, pod) = (Index::default(), PodName::new("d", "web-0"));
        index.set_endpoint(&pod, Some(&endpoint(&pod, "10.0.0.1")));
        let mut claim = IPClaim::held("10.0.0.1".parse().unwrap(), "p", &pod);
        claim.metadata.name = Some("mine".into());
        index.set_claim("mine", Some(&claim));
        assert!(!index.is_listed(index.claim("mine").unwrap()));
    }
}
