//! What one ADD is about, decided before anything is written: whose the pod is, which pools it may use, what it keeps.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use holdfast_api::{
    annotations::{self, DEFAULT_ROUTE_NIC, IPPOOLS, RETAIN},
    endpoint::{EndpointIp, HolderState, SpiderEndpoint},
    ippool::Route,
    owner::Owner,
};
use holdfast_core::{guard_mode::GuardMode, pool::Family};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;

use super::{BindRequest, IpAllocation, IpamError, Settings};
use crate::{
    pool_selection::{PoolSelection, PoolSource},
    pools::{CachedPool, PodContext, PoolCache},
    static_ips,
};

/// An address of the interface, kept or newly taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assigned {
    net: IpNet,
    pub(super) pool: String,
}

impl Assigned {
    pub(super) fn new(net: IpNet, pool: &str) -> Self {
        Self { net, pool: pool.to_owned() }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.net.addr()
    }

    pub(super) fn is(&self, family: Family) -> bool {
        Family::of(self.address()) == family
    }
}

/// The pools to try for each family, in their order.
pub(super) type Candidates = Vec<(Family, Vec<Arc<CachedPool>>)>;

/// One ADD.
pub(super) struct BindSpec<'a> {
    pub(super) request: &'a BindRequest<'a>,
    settings: &'a Settings,
    uid: String,
    owner: Owner,
    selection: PoolSelection,
    pod_labels: &'a BTreeMap<String, String>,
    namespace_labels: BTreeMap<String, String>,
    node_labels: BTreeMap<String, String>,
    routes: Vec<Route>,
    mode: Option<GuardMode>,
    clean_gateway: bool,
    /// Addresses that the pod's author fixed for it.
    fixed: Vec<IpAddr>,
    /// How long the addresses stay after the pod's ordinal is scaled away, as its author wrote it.
    retain: Option<String>,
}

impl<'a> BindSpec<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        request: &'a BindRequest<'a>,
        pod: &'a Pod,
        namespace: Option<Namespace>,
    ) -> Result<Self, IpamError> {
        let annotations = pod.annotations();
        let namespace = namespace.unwrap_or_default();
        let wrong = |source| IpamError::Annotation { pod: request.pod.clone(), source };
        let selection = PoolSelection::of(annotations, namespace.annotations(), &request.conf.ipam, &request.interface)
            .map_err(wrong)?;
        let elsewhere = annotations.get(DEFAULT_ROUTE_NIC).is_some_and(|nic| nic != request.interface.as_str());
        let owner = Owner::of(pod);
        annotations::retain(annotations).map_err(wrong)?;
        Ok(Self {
            request,
            settings,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            fixed: static_ips::addresses(annotations, &request.pod, &owner).map_err(wrong)?,
            retain: annotations.get(RETAIN).cloned(),
            owner,
            clean_gateway: elsewhere || selection.clean_gateway.unwrap_or_else(|| request.conf.clean_gateway()),
            selection,
            pod_labels: pod.labels(),
            namespace_labels: namespace.labels().clone(),
            node_labels: BTreeMap::new(),
            mode: annotations::guard_mode(annotations).map_err(wrong)?,
            routes: annotations::routes(annotations).map_err(wrong)?,
        })
    }

    pub(super) fn with_node_labels(self, node_labels: BTreeMap<String, String>) -> Self {
        Self { node_labels, ..self }
    }

    /// The families that the node serves.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.settings.families.iter().copied()
    }

    /// The address of `family` that the pod's author fixed for it.
    pub(super) fn fixed(&self, family: Family) -> Option<IpAddr> {
        self.fixed.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Whether the pod's author named pools for more than one interface, of which a fixed address is for one.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.selection.source == PoolSource::Pod(IPPOOLS)
    }

    pub(super) fn names_unknown_pools(&self, pools: &PoolCache) -> bool {
        let known = pools.all();
        let plain = |name: &&String| !name.contains(['*', '?', '[']);
        let mut names = self.families().filter_map(|family| self.selection.names(family)).flatten();
        let default_unknown =
            |family| self.selection.names(family).is_none() && !known.values().any(|pool| pool.spec.default);
        names.any(|name| plain(&name) && !known.contains_key(name)) || self.families().any(default_unknown)
    }

    /// The pools to try for each of `families`, or every family's reasons why there is none.
    pub(super) fn candidates(&self, pools: &PoolCache, families: &[Family]) -> Result<Candidates, IpamError> {
        let context = PodContext {
            namespace: &self.request.pod.namespace,
            namespace_labels: &self.namespace_labels,
            pod_labels: self.pod_labels,
            node: &self.settings.node,
            node_labels: &self.node_labels,
            network: &self.request.conf.name,
        };
        let (mut found, mut reasons) = (Vec::new(), Vec::new());
        for family in families {
            match pools.candidates(&self.selection, *family, &context) {
                Ok(candidates) => found.push((*family, candidates)),
                Err(none) => reasons.push(none),
            }
        }
        if reasons.is_empty() {
            return Ok(found);
        }
        let (pod, interface) = (self.request.pod.clone(), self.request.interface.clone());
        Err(IpamError::NoPool { pod, interface, reasons })
    }

    /// What the pod has on interfaces other than this one.
    pub(super) fn elsewhere(&self, before: Option<&SpiderEndpoint>) -> HashSet<IpAddr> {
        let ips = before.and_then(|before| before.status.as_ref()).into_iter().flat_map(|status| &status.current.ips);
        let others = ips.filter(|ip| ip.interface != self.request.interface.as_str());
        others.flat_map(EndpointIp::networks).map(|net| net.addr()).collect()
    }

    /// The addresses that the interface keeps. A sandbox of the same pod keeps them, and so does a pod of the same
    /// StatefulSet, unless its author names other pools now. A change of default pools moves nothing.
    pub(super) fn keep(&self, before: Option<&SpiderEndpoint>, lost: &HashSet<IpAddr>) -> Vec<Assigned> {
        let Some(status) = before.and_then(|before| before.status.as_ref()) else { return Vec::new() };
        let sticky = self.settings.sticky_stateful_sets && self.owner.is_stateful_set() && self.owner.owns(status);
        if !sticky && status.current.uid != self.uid {
            return Vec::new();
        }
        let Some(ip) = status.current.ips.iter().find(|ip| ip.interface == self.request.interface.as_str()) else {
            return Vec::new();
        };
        let pairs = [(&ip.ipv4, &ip.ipv4_pool, Family::V4), (&ip.ipv6, &ip.ipv6_pool, Family::V6)];
        let assigned = pairs.into_iter().filter_map(|(net, pool, family)| {
            let assigned = Assigned::new(net.as_ref()?.parse().ok()?, pool.as_deref().unwrap_or_default());
            let served = self.settings.families.contains(&family);
            let named = !self.selection.is_explicit() || self.selection.allows(family, &assigned.pool);
            let fixed = self.fixed(family).is_none_or(|fixed| fixed == assigned.address());
            (served && named && fixed && !lost.contains(&assigned.address())).then_some(assigned)
        });
        assigned.collect()
    }

    /// The endpoint with this container as its holder. The same container gets the same endpoint again, byte for byte.
    pub(super) fn endpoint(
        &self,
        before: Option<&SpiderEndpoint>,
        kept: &[Assigned],
        taken: &[Assigned],
        pools: &PoolCache,
        now: Timestamp,
    ) -> SpiderEndpoint {
        let mut endpoint = before.cloned().unwrap_or_else(|| SpiderEndpoint::for_pod(&self.request.pod));
        let mut status = endpoint.status.take().unwrap_or_default();
        let ip = self.record(kept.iter().chain(taken), pools);
        if !self.owner.owns(&status) || (!self.owner.is_stateful_set() && status.current.uid != self.uid) {
            status.current.ips.clear();
        }
        if status.current.container_id.as_ref() != Some(&self.request.container) || status.current.uid != self.uid {
            status.end_holder(now, "Rebound");
            let current = &mut status.current;
            current.generation = current.generation.next();
            current.container_id = Some(self.request.container.clone());
            current.uid.clone_from(&self.uid);
            current.node.clone_from(&self.settings.node);
            current.state = HolderState::Bound;
            current.bound_at = Some(now);
        }
        match status.current.ips.iter_mut().find(|there| there.interface == ip.interface) {
            Some(there) => *there = ip,
            None => status.current.ips.push(ip),
        }
        status.owner_controller_type.clone_from(&self.owner.kind);
        status.owner_controller_name.clone_from(&self.owner.name);
        status.owner_controller_uid.clone_from(&self.owner.uid);
        endpoint.status = Some(status);
        endpoint.label_with_node(&self.settings.node);
        match &self.retain {
            Some(retain) => drop(endpoint.annotations_mut().insert(RETAIN.to_owned(), retain.clone())),
            None => drop(endpoint.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(RETAIN))),
        }
        endpoint
    }

    fn record<'b>(&self, assigned: impl Iterator<Item = &'b Assigned>, pools: &PoolCache) -> EndpointIp {
        let mut ip = EndpointIp { interface: self.request.interface.to_string(), ..EndpointIp::default() };
        for assigned in assigned {
            let (net, pool) = (Some(assigned.net.to_string()), Some(assigned.pool.clone()));
            let known = pools.get(&assigned.pool);
            let spec = known.as_ref().map(|known| &known.spec);
            let gateway = spec.and_then(|spec| spec.gateway.clone()).filter(|gateway| !gateway.is_empty());
            match Family::of(assigned.address()) {
                Family::V4 => (ip.ipv4, ip.ipv4_pool, ip.ipv4_gateway) = (net, pool, gateway),
                Family::V6 => (ip.ipv6, ip.ipv6_pool, ip.ipv6_gateway) = (net, pool, gateway),
            }
            ip.vlan = spec.and_then(|spec| spec.vlan).unwrap_or(ip.vlan);
            ip.routes.extend(spec.into_iter().flat_map(|spec| spec.routes.iter().cloned()));
        }
        ip.routes.extend(self.routes.iter().cloned());
        ip.clean_gateway = Some(self.clean_gateway);
        ip
    }

    /// The answer once `written` is on the API server and its claims are confirmed.
    pub(super) fn bound(&self, listed: &HashSet<IpAddr>, written: &SpiderEndpoint) -> IpAllocation {
        let current = written.record().current.clone();
        let ip = current.ips.into_iter().find(|ip| ip.interface == self.request.interface.as_str());
        let displaced = listed.iter().copied().filter(|address| !written.lists(*address)).collect();
        IpAllocation { ip: ip.unwrap_or_default(), generation: current.generation, mode: self.mode, displaced }
    }
}

#[cfg(test)]
mod tests;
