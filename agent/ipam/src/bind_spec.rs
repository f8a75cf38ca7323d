//! The specification of one bind, read from the pod, its namespace and the CNI configuration before anything is written.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use holdfast_api::{
    annotations::{self, DEFAULT_ROUTE_NIC, IPPOOLS, RETAIN},
    ippool::Route,
    owner::Owner,
};
use holdfast_core::{guard_mode::GuardMode, pool::Family};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;

use crate::{
    eligibility::{PodContext, eligible_pools},
    error::IpamError,
    ipam::Settings,
    pool_cache::{CachedPool, PoolCache},
    pool_selection::{PoolSelection, PoolSource},
    requests::BindRequest,
    static_ips,
};

/// The pools to try for each family, in their order.
pub(crate) type EligiblePools = Vec<(Family, Vec<Arc<CachedPool>>)>;

/// The specification of one bind.
pub(crate) struct BindSpec<'a> {
    pub(crate) request: &'a BindRequest<'a>,
    pub(crate) settings: &'a Settings,
    /// The UID of the API server's current pod.
    pub(crate) pod_uid: String,
    pub(crate) owner: Owner,
    pub(crate) selection: PoolSelection,
    pod_labels: &'a BTreeMap<String, String>,
    namespace_labels: BTreeMap<String, String>,
    node_labels: BTreeMap<String, String>,
    /// The routes of the pod's annotation.
    pub(crate) routes: Vec<Route>,
    pub(crate) guard_mode: Option<GuardMode>,
    /// True where the interface gets no default route.
    pub(crate) clean_gateway: bool,
    /// The addresses that the StatefulSet's author fixed for the pod's ordinal.
    static_ips: Vec<IpAddr>,
    /// The time for which the addresses are kept after the ordinal is scaled away, as its author wrote it.
    pub(crate) retain: Option<String>,
}

impl<'a> BindSpec<'a> {
    /// Reads the specification. An annotation that cannot be used is an error.
    pub(crate) fn new(
        settings: &'a Settings,
        request: &'a BindRequest<'a>,
        pod: &'a Pod,
        namespace: Option<Namespace>,
    ) -> Result<Self, IpamError> {
        let on_pod = pod.annotations();
        let namespace = namespace.unwrap_or_default();
        let invalid = |source| IpamError::Annotation { pod: request.pod.clone(), source };
        let selection = PoolSelection::new(on_pod, namespace.annotations(), &request.conf.ipam, &request.interface)
            .map_err(invalid)?;
        let default_route_elsewhere =
            on_pod.get(DEFAULT_ROUTE_NIC).is_some_and(|nic| nic != request.interface.as_str());
        let owner = Owner::of(pod);
        // The endpoint carries the text; an ADD refuses one that the controller could not read.
        annotations::retain(on_pod).map_err(invalid)?;
        Ok(Self {
            request,
            settings,
            pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
            static_ips: static_ips::addresses(on_pod, &request.pod, &owner).map_err(invalid)?,
            retain: on_pod.get(RETAIN).cloned(),
            owner,
            clean_gateway: default_route_elsewhere
                || selection.clean_gateway.unwrap_or_else(|| request.conf.clean_gateway()),
            selection,
            pod_labels: pod.labels(),
            namespace_labels: namespace.labels().clone(),
            node_labels: BTreeMap::new(),
            guard_mode: annotations::guard_mode(on_pod).map_err(invalid)?,
            routes: annotations::routes(on_pod).map_err(invalid)?,
        })
    }

    /// Returns the specification with the labels of this node, for pools with a node selector.
    pub(crate) fn with_node_labels(self, node_labels: BTreeMap<String, String>) -> Self {
        Self { node_labels, ..self }
    }

    /// Returns the families that the node serves.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.settings.families.iter().copied()
    }

    /// Returns the static address of `family`; none where the annotation has none.
    pub(crate) fn static_ip(&self, family: Family) -> Option<IpAddr> {
        self.static_ips.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Returns true where the pod's annotation names pools for each of its interfaces. A static address is then for the
    /// interface whose pool contains it.
    pub(crate) fn names_pools_per_interface(&self) -> bool {
        self.selection.source == PoolSource::Pod(IPPOOLS)
    }

    /// Returns true where a pool is named, or a default pool is needed, that the cache does not have (yet).
    pub(crate) fn names_unknown_pools(&self, pools: &PoolCache) -> bool {
        let cached = pools.all();
        let is_plain = |name: &&String| !name.contains(['*', '?', '[']);
        let mut names = self.families().filter_map(|family| self.selection.names(family)).flatten();
        let lacks_default =
            |family| self.selection.names(family).is_none() && !cached.values().any(|pool| pool.spec.default);
        names.any(|name| is_plain(&name) && !cached.contains_key(name)) || self.families().any(lacks_default)
    }

    /// Returns the pools to try for each of `families`; where a family has none, the error has the reasons of every such
    /// family.
    pub(crate) fn eligible_pools(&self, pools: &PoolCache, families: &[Family]) -> Result<EligiblePools, IpamError> {
        let context = PodContext {
            namespace: &self.request.pod.namespace,
            namespace_labels: &self.namespace_labels,
            pod_labels: self.pod_labels,
            node: &self.settings.node,
            node_labels: &self.node_labels,
            network: &self.request.conf.name,
        };
        let cached = pools.all();
        let (mut eligible, mut reasons) = (Vec::new(), Vec::new());
        for family in families {
            match eligible_pools(&cached, &self.selection, *family, &context) {
                Ok(pools) => eligible.push((*family, pools)),
                Err(none) => reasons.push(none),
            }
        }
        if reasons.is_empty() {
            return Ok(eligible);
        }
        let (pod, interface) = (self.request.pod.clone(), self.request.interface.clone());
        Err(IpamError::NoPool { pod, interface, reasons })
    }
}
