//! Endpoints and pods in memory, which change as [`Ipam`](holdfast_ipam::Ipam) changes those of an API server.

use std::{collections::BTreeMap, net::IpAddr};

use async_trait::async_trait;
use holdfast_api::{
    annotations,
    endpoint::{EndpointIp, EndpointStatus, HolderState, STATEFUL_SET, SpiderEndpoint},
    store::StoreError,
};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfName, PodName},
};
use holdfast_ipam::{
    BindRequest, HolderLocation, IpAllocation, IpamError, PodRecord, SANDBOX_DIED, UnbindOutcome, UnbindRequest,
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use parking_lot::Mutex;

use super::journal::{Injected, Journal};
use crate::node::backend::Records;

/// The name of the node that the records are about.
pub const NODE_NAME: &str = "node1";

/// The records of all pods.
pub struct FakeRecords {
    journal: Journal,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<PodName, FakePod>,
    endpoints: BTreeMap<PodName, SpiderEndpoint>,
}

#[derive(Clone)]
struct FakePod {
    uid: String,
    sticky: bool,
    address: IpAddr,
    mode: Option<GuardMode>,
}

impl From<Injected> for IpamError {
    fn from(_: Injected) -> Self {
        Self::Store(StoreError::Conflict { what: "injected".to_owned() })
    }
}

impl FakeRecords {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, state: Mutex::default() }
    }

    /// Creates a pod of a StatefulSet, or one that another of the same name replaces. It gets `address`.
    pub fn put_pod(&self, pod: &PodName, uid: &str, address: IpAddr) {
        let new = FakePod { uid: uid.to_owned(), sticky: true, address, mode: None };
        self.state.lock().pods.insert(pod.clone(), new);
    }

    /// Makes a pod one of no StatefulSet.
    pub fn make_stateless(&self, pod: &PodName) {
        self.edit_pod(pod, |pod| pod.sticky = false);
    }

    /// Moves a pod to another address: what it has is given up at its next ADD.
    pub fn move_pod(&self, pod: &PodName, address: IpAddr) {
        self.edit_pod(pod, |pod| pod.address = address);
    }

    /// Annotates a pod with a mode.
    pub fn annotate(&self, pod: &PodName, mode: GuardMode) {
        self.edit_pod(pod, |pod| pod.mode = Some(mode));
    }

    /// Deletes a pod, and leaves its endpoint.
    pub fn remove_pod(&self, pod: &PodName) {
        self.state.lock().pods.remove(pod);
    }

    fn edit_pod(&self, pod: &PodName, edit: impl FnOnce(&mut FakePod)) {
        if let Some(pod) = self.state.lock().pods.get_mut(pod) {
            edit(pod);
        }
    }

    /// Returns a pod's endpoint.
    pub fn endpoint(&self, pod: &PodName) -> Option<SpiderEndpoint> {
        self.state.lock().endpoints.get(pod).cloned()
    }

    /// Returns the container that a pod's endpoint names, and its generation.
    pub fn holder(&self, pod: &PodName) -> Option<(ContainerId, Generation)> {
        let current = self.endpoint(pod)?.status?.current;
        Some((current.container_id?, current.generation))
    }

    /// Writes an endpoint as another client would. None: deletes it.
    pub fn put_endpoint(&self, pod: &PodName, endpoint: Option<SpiderEndpoint>) {
        let mut state = self.state.lock();
        match endpoint {
            Some(endpoint) => drop(state.endpoints.insert(pod.clone(), endpoint)),
            None => drop(state.endpoints.remove(pod)),
        }
    }

    async fn call(&self, line: String) -> Result<(), IpamError> {
        Ok(self.journal.call_async(format!("records.{line}")).await?)
    }

    fn status(&self, pod: &PodName) -> Option<EndpointStatus> {
        self.endpoint(pod)?.status
    }

    /// Changes the record of a holder. False: the endpoint names another, or there is none.
    fn edit_holder<T>(
        &self,
        pod: &PodName,
        container: &ContainerId,
        edit: impl FnOnce(&mut EndpointStatus) -> T,
    ) -> Option<T> {
        let mut state = self.state.lock();
        let status = state.endpoints.get_mut(pod)?.status.as_mut()?;
        (status.current.container_id.as_ref() == Some(container)).then(|| edit(status))
    }
}

/// Names a container as the holder, one generation on if it was another.
fn name_holder(endpoint: &mut SpiderEndpoint, container: &ContainerId, uid: &str, reason: &str) {
    let status = endpoint.status.get_or_insert_default();
    if status.current.container_id.as_ref() != Some(container) {
        status.end_holder(Timestamp::UNIX_EPOCH, reason);
        status.current.generation = status.current.generation.next();
    }
    let current = &mut status.current;
    current.container_id = Some(container.clone());
    current.state = HolderState::Bound;
    uid.clone_into(&mut current.uid);
    NODE_NAME.clone_into(&mut current.node);
}

fn addresses_on(ips: &[EndpointIp], interface: &IfName) -> Vec<IpAddr> {
    let of_interface = ips.iter().filter(|ip| ip.interface == interface.as_str());
    of_interface.flat_map(EndpointIp::networks).map(|net| net.addr()).collect()
}

#[async_trait]
impl Records for FakeRecords {
    async fn bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError> {
        self.call(format!("bind {} {}", request.container, request.interface)).await?;
        let mut state = self.state.lock();
        let Some(pod) = state.pods.get(&request.pod).cloned() else {
            return Err(IpamError::NoPod(request.pod.clone()));
        };
        let new = SpiderEndpoint::for_pod(&request.pod);
        let endpoint = state.endpoints.entry(request.pod.clone()).or_insert(new);
        let before = endpoint.addresses();
        name_holder(endpoint, &request.container, &pod.uid, "Replaced");
        let status = endpoint.status.get_or_insert_default();
        if pod.sticky {
            STATEFUL_SET.clone_into(&mut status.owner_controller_type);
        }
        let interface = request.interface.to_string();
        let ip = EndpointIp { interface, ipv4: Some(format!("{}/24", pod.address)), ..EndpointIp::default() };
        status.current.ips.retain(|there| there.interface != ip.interface);
        status.current.ips.push(ip.clone());
        let generation = status.current.generation;
        let displaced = before.into_iter().filter(|address| !endpoint.lists(*address)).collect();
        Ok(IpAllocation { ip, generation, mode: pod.mode, displaced })
    }

    async fn unbind(&self, request: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError> {
        let UnbindRequest { pod, container, interface, has_other_interfaces, reason } = *request;
        self.call(format!("unbind {container} {interface} {reason}")).await?;
        let released = self.edit_holder(pod, container, |status| {
            if status.is_sticky() {
                if has_other_interfaces {
                    return (UnbindOutcome::Nothing, false);
                }
                status.end_holder(Timestamp::UNIX_EPOCH, reason);
                status.current.state = HolderState::Reserved;
                return (UnbindOutcome::Reserved, false);
            }
            let addresses = addresses_on(&status.current.ips, interface);
            status.current.ips.retain(|ip| ip.interface != interface.as_str());
            (UnbindOutcome::Released(addresses), status.current.ips.is_empty())
        });
        let Some((outcome, is_empty)) = released else { return Ok(UnbindOutcome::Nothing) };
        if is_empty {
            self.put_endpoint(pod, None);
        }
        Ok(outcome)
    }

    async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]) {
        // It has no error to give.
        let _ = self.call(format!("release {pod} {addresses:?}")).await;
    }

    async fn interface_record(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(EndpointIp, Generation)>, IpamError> {
        let status = self.status(pod).filter(|status| status.current.container_id.as_ref() == Some(container));
        let Some(current) = status.map(|status| status.current) else { return Ok(None) };
        let ip = current.ips.into_iter().find(|ip| ip.interface == interface.as_str());
        Ok(ip.map(|ip| (ip, current.generation)))
    }

    async fn pod_record(&self, pod: &PodName, interface: &IfName) -> Result<PodRecord, IpamError> {
        self.call(format!("read {pod}")).await?;
        let uid = self.state.lock().pods.get(pod).map(|pod| pod.uid.clone());
        let EndpointStatus { current, history, .. } = self.status(pod).unwrap_or_default();
        let holder_location = if uid.as_ref().is_some_and(|uid| !current.uid.is_empty() && *uid != current.uid) {
            HolderLocation::PodReplaced
        } else if current.node == NODE_NAME {
            HolderLocation::ThisNode
        } else {
            HolderLocation::OtherNode
        };
        let unbound = history.into_iter().filter(|former| former.reason != SANDBOX_DIED);
        Ok(PodRecord {
            uid,
            addresses: addresses_on(&current.ips, interface),
            holder_location,
            holder: current.container_id.map(|container| (container, current.generation)),
            unbound_containers: unbound.filter_map(|former| former.container_id).collect(),
        })
    }

    async fn rebind(
        &self,
        pod: &PodName,
        uid: &str,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(Generation, Vec<IpAddr>)>, IpamError> {
        self.call(format!("rebind {container}")).await?;
        let mut state = self.state.lock();
        let Some(endpoint) = state.endpoints.get_mut(pod) else { return Ok(None) };
        if endpoint.status.as_ref().is_none_or(|status| status.current.container_id.as_ref() == Some(container)) {
            return Ok(None);
        }
        name_holder(endpoint, container, uid, "Rebound");
        let current = endpoint.status.clone().unwrap_or_default().current;
        Ok(Some((current.generation, addresses_on(&current.ips, interface))))
    }

    async fn end_holder(&self, pod: &PodName, container: &ContainerId, reason: &str) -> Result<bool, IpamError> {
        self.call(format!("end_holder {container} {reason}")).await?;
        let ended = self.edit_holder(pod, container, |status| {
            status.end_holder(Timestamp::UNIX_EPOCH, reason);
            status.current.state = HolderState::Reserved;
        });
        Ok(ended.is_some())
    }

    async fn is_live_holder(&self, pod: &PodName, container: &ContainerId) -> Result<bool, IpamError> {
        let uid = self.state.lock().pods.get(pod).map(|pod| pod.uid.clone());
        let current = self.status(pod).unwrap_or_default().current;
        Ok(uid.as_ref() == Some(&current.uid) && current.container_id.as_ref() == Some(container))
    }

    async fn pod(&self, pod: &PodName) -> Result<Option<Pod>, IpamError> {
        Ok(self.pods_on_node().await?.into_iter().find(|there| there.name_any() == pod.name))
    }

    async fn pods_on_node(&self) -> Result<Vec<Pod>, IpamError> {
        let pods = self.state.lock().pods.clone();
        let object = |(name, pod): (PodName, FakePod)| {
            let annotations = pod.mode.map(|mode| {
                let mode = if mode == GuardMode::Observe { "observe" } else { "enforce" };
                [(annotations::GUARD.to_owned(), mode.to_owned())].into()
            });
            let metadata = ObjectMeta {
                name: Some(name.name),
                namespace: Some(name.namespace),
                uid: Some(pod.uid),
                annotations,
                ..ObjectMeta::default()
            };
            Pod { metadata, ..Pod::default() }
        };
        Ok(pods.into_iter().map(object).collect())
    }

    async fn endpoints_on_node(&self) -> Result<Vec<SpiderEndpoint>, IpamError> {
        self.call("list".to_owned()).await?;
        let endpoints = self.state.lock().endpoints.clone();
        let here = |endpoint: &SpiderEndpoint| endpoint.record().current.node == NODE_NAME;
        Ok(endpoints.into_values().filter(here).collect())
    }

    async fn ping_api_server(&self) -> Result<(), IpamError> {
        self.call("ping".to_owned()).await
    }
}
