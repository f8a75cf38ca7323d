//! Who belongs to whom: endpoints, their StatefulSets and nodes, claims, their endpoints and pools. Kept up with one
//! change at a time, so that a round costs as much as what changed.

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

/// What matters of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listing {
    addresses: Vec<IpAddr>,
    set: Option<PodName>,
    node: String,
}

/// What matters of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) address: IpAddr,
    pub(super) pool: String,
    pub(super) endpoint: Option<PodName>,
    pub(super) released: bool,
    /// Whether its name is its address, which makes it the address's lock.
    pub(super) well_named: bool,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    endpoints: HashMap<PodName, Listing>,
    claims: HashMap<String, Claimed>,
    of_set: Groups<PodName, PodName>,
    of_node: Groups<String, PodName>,
    of_endpoint: Groups<PodName, String>,
    of_pool: Groups<String, String>,
    of_address: Groups<IpAddr, PodName>,
}

impl Index {
    /// Takes an endpoint in as it is now. Answers the claims and pools that this may concern.
    pub(super) fn set_endpoint(&mut self, name: &PodName, endpoint: Option<&SpiderEndpoint>) -> Touched {
        if let Some(before) = self.endpoints.remove(name) {
            if let Some(set) = &before.set {
                self.of_set.remove(set, name);
            }
            self.of_node.remove(&before.node, name);
            for address in &before.addresses {
                self.of_address.remove(address, name);
            }
        }
        if let Some(endpoint) = endpoint {
            let record = endpoint.record();
            let set = || PodName::new(&name.namespace, &record.owner_controller_name);
            let listing = Listing {
                addresses: endpoint.addresses(),
                set: record.is_sticky().then(set),
                node: record.current.node.clone(),
            };
            if let Some(set) = &listing.set {
                self.of_set.add(set.clone(), name.clone());
            }
            self.of_node.add(listing.node.clone(), name.clone());
            for address in &listing.addresses {
                self.of_address.add(*address, name.clone());
            }
            self.endpoints.insert(name.clone(), listing);
        }
        let claims: Vec<_> = self.of_endpoint.get(name).cloned().collect();
        let pools = claims.iter().filter_map(|claim| Some(self.claims.get(claim)?.pool.clone())).collect();
        Touched { claims, pools }
    }

    /// Takes a claim in as it is now. Answers the endpoints and pools that this may concern.
    pub(super) fn set_claim(&mut self, name: &str, claim: Option<&IPClaim>) -> Locked {
        let mut pools = Vec::new();
        let before = self.claims.remove(name);
        let locked = [before.as_ref().map(|claim| claim.address), claim.map(|claim| claim.spec.address)];
        let endpoints = locked.iter().flatten().flat_map(|address| self.of_address.get(address)).cloned().collect();
        if let Some(before) = before {
            self.of_pool.remove(&before.pool, name);
            if let Some(endpoint) = &before.endpoint {
                self.of_endpoint.remove(endpoint, name);
            }
            pools.push(before.pool);
        }
        if let Some(claim) = claim {
            let claimed = Claimed {
                address: claim.spec.address,
                pool: claim.spec.pool.clone(),
                endpoint: claim.endpoint(),
                released: claim.spec.state == ClaimState::Released,
                well_named: claim.name_any() == name_of(claim.spec.address),
            };
            if !pools.contains(&claimed.pool) {
                pools.push(claimed.pool.clone());
            }
            self.of_pool.add(claimed.pool.clone(), name.to_owned());
            if let Some(endpoint) = &claimed.endpoint {
                self.of_endpoint.add(endpoint.clone(), name.to_owned());
            }
            self.claims.insert(name.to_owned(), claimed);
        }
        Locked { endpoints, pools }
    }

    pub(super) fn claim(&self, name: &str) -> Option<&Claimed> {
        self.claims.get(name)
    }

    /// Whether the claim's endpoint lists its address.
    pub(super) fn is_listed(&self, claim: &Claimed) -> bool {
        let listing = claim.endpoint.as_ref().and_then(|endpoint| self.endpoints.get(endpoint));
        claim.well_named && listing.is_some_and(|listing| listing.addresses.contains(&claim.address))
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &PodName> {
        self.endpoints.keys()
    }

    pub(super) fn claims(&self) -> impl Iterator<Item = &String> {
        self.claims.keys()
    }

    pub(super) fn endpoints_of_set(&self, set: &PodName) -> impl Iterator<Item = &PodName> {
        self.of_set.get(set)
    }

    pub(super) fn endpoints_of_node(&self, node: &str) -> impl Iterator<Item = &PodName> {
        self.of_node.get(node)
    }

    pub(super) fn claims_of_endpoint(&self, endpoint: &PodName) -> impl Iterator<Item = &String> {
        self.of_endpoint.get(endpoint)
    }

    pub(super) fn claims_of_pool(&self, pool: &str) -> impl Iterator<Item = &Claimed> {
        self.of_pool.get(pool).filter_map(|claim| self.claims.get(claim))
    }
}

/// What a change of an endpoint may concern.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) claims: Vec<String>,
    pub(super) pools: Vec<String>,
}

/// What a change of a claim may concern.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Locked {
    /// Those that list its address.
    pub(super) endpoints: BTreeSet<PodName>,
    pub(super) pools: Vec<String>,
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
        let touched = index.set_endpoint(&pod, Some(&endpoint(&pod, "10.0.0.1")));
        assert_eq!(touched, Touched { claims: vec!["10.0.0.1".into()], pools: vec!["p".into()] });
        assert!(is_listed(&index));
        assert_eq!(index.endpoints_of_set(&PodName::new("d", "web")).count(), 1);
        assert_eq!(index.endpoints_of_node("n1").count(), 1);
        assert_eq!(index.set_claim("10.0.0.1", Some(&claim)).endpoints, [pod.clone()].into());
        index.set_endpoint(&pod, Some(&endpoint(&pod, "10.0.0.2")));
        assert!(!is_listed(&index));
        index.set_endpoint(&pod, None);
        assert_eq!(index.endpoints_of_node("n1").count() + index.endpoints().count(), 0);
        assert_eq!(index.set_claim("10.0.0.1", None), Locked { endpoints: [].into(), pools: vec!["p".into()] });
        assert_eq!(index.claims_of_pool("p").count() + index.claims_of_endpoint(&pod).count(), 0);
    }

    #[test]
    fn a_claim_under_another_name_locks_nothing() {
        let (mut index, pod) = (Index::default(), PodName::new("d", "web-0"));
        index.set_endpoint(&pod, Some(&endpoint(&pod, "10.0.0.1")));
        let mut claim = IPClaim::held("10.0.0.1".parse().unwrap(), "p", &pod);
        claim.metadata.name = Some("mine".into());
        index.set_claim("mine", Some(&claim));
        assert!(!index.is_listed(index.claim("mine").unwrap()));
    }
}
