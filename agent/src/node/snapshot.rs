//! The state of this node at the API server and in the guard, for one reconciliation.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use holdfast_api::{
    annotations::guard_mode_of,
    endpoint::{EndpointIp, SpiderEndpoint},
};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, PodName},
};
use holdfast_guard::{Binding, BindingState};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::attachment::Attachment;

/// The lists that a reconciliation starts from. They may be old by the time that a link is compared with them: changes
/// to a link rest on live reads.
pub(super) struct Snapshot {
    /// The records of the containers that endpoints name.
    pub(super) holders: HashMap<ContainerId, HolderRecord>,
    /// The pods, by UID.
    pub(super) pods: HashMap<String, PodName>,
    modes: HashMap<PodName, GuardMode>,
    /// The links' current bindings in the guard.
    current: HashSet<(IfIndex, IpAddr, Generation)>,
}

/// The record of the container that an endpoint names.
pub(super) struct HolderRecord {
    pub(super) pod: PodName,
    pub(super) generation: Generation,
    pub(super) ips: Vec<EndpointIp>,
}

impl Snapshot {
    pub(super) fn new(endpoints: Vec<SpiderEndpoint>, pods: &[Pod], bindings: Vec<Binding>) -> Self {
        let holders = endpoints.into_iter().filter_map(|endpoint| {
            let (pod, current) = (endpoint.pod(), endpoint.status?.current);
            Some((current.container_id?, HolderRecord { pod, generation: current.generation, ips: current.ips }))
        });
        let name = |pod: &Pod| PodName::new(pod.namespace().unwrap_or_default(), pod.name_any());
        let current = bindings.into_iter().filter(|binding| binding.state == BindingState::Current);
        Self {
            holders: holders.collect(),
            pods: pods.iter().filter_map(|pod| Some((pod.uid()?, name(pod)))).collect(),
            modes: pods.iter().filter_map(|pod| Some((name(pod), guard_mode_of(pod)?))).collect(),
            current: current.map(|Binding { entry, .. }| (entry.link, entry.address, entry.generation)).collect(),
        }
    }

    /// Returns the mode that a pod asks for, if it does.
    pub(super) fn mode(&self, pod: &PodName) -> Option<GuardMode> {
        self.modes.get(pod).copied()
    }

    /// Returns whether the guard has all of these addresses as the link's, at this generation.
    pub(super) fn is_current(
        &self,
        link: IfIndex,
        generation: Generation,
        mut addresses: impl Iterator<Item = IpAddr>,
    ) -> bool {
        addresses.all(|address| self.current.contains(&(link, address, generation)))
    }
}

impl HolderRecord {
    /// Returns the record's entry for an attachment's interface.
    pub(super) fn interface(&self, attachment: &Attachment) -> Option<&EndpointIp> {
        self.ips.iter().find(|ip| ip.interface == attachment.interface.as_str())
    }
}
