//! What the records say of a pod, and corrections of who holds it.

use std::net::IpAddr;

use holdfast_api::{
    endpoint::{EndpointIp, HolderState, SpiderEndpoint},
    labels::{NODE_LABEL, label_value},
};
use holdfast_core::id::{ContainerId, Generation, IfName, PodName};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Ipam, IpamError};

/// What the records say of a pod now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// The UID of the API server's current pod of that name.
    pub uid: Option<String>,
    /// Who the endpoint names.
    pub holder: Option<(ContainerId, Generation)>,
    /// Where that may live.
    pub holder_location: HolderLocation,
    /// Containers that were taken off the record on purpose. Being taken for dead is none: it may have been a mistake.
    pub unbound_containers: Vec<String>,
    /// The addresses of the interface asked for.
    pub addresses: Vec<IpAddr>,
}

/// Where the holder that a record names may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderLocation {
    /// On this node.
    ThisNode,
    /// On another one.
    OtherNode,
    /// Nowhere: it was of a pod that another of the same name has replaced.
    PodReplaced,
}

/// Why a holder's record ended that was taken for dead.
pub const SANDBOX_DIED: &str = "SandboxDied";

impl Ipam {
    /// The record of the container's interface, for CHECK. None: the container is not the one that the endpoint names.
    pub async fn interface_record(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(EndpointIp, Generation)>, IpamError> {
        let endpoint = self.store.endpoint(pod).await?;
        let current = endpoint.and_then(|endpoint| endpoint.status).map(|status| status.current);
        let Some(current) = current.filter(|current| current.container_id.as_ref() == Some(container)) else {
            return Ok(None);
        };
        let ip = current.ips.into_iter().find(|ip| ip.interface == interface.as_str());
        Ok(ip.map(|ip| (ip, current.generation)))
    }

    /// The API server's current pod of that name.
    pub async fn pod(&self, name: &PodName) -> Result<Option<Pod>, IpamError> {
        Ok(self.store.pod(name).await?)
    }

    /// What the records say of a pod's interface.
    pub async fn pod_record(&self, name: &PodName, interface: &IfName) -> Result<PodRecord, IpamError> {
        let (pod, endpoint) = tokio::try_join!(self.store.pod(name), self.store.endpoint(name))?;
        let uid = pod.and_then(|pod| pod.metadata.uid);
        let record = endpoint.and_then(|endpoint| endpoint.status).unwrap_or_default();
        let current = record.current;
        let holder_location = if uid.as_ref().is_some_and(|uid| !current.uid.is_empty() && *uid != current.uid) {
            HolderLocation::PodReplaced
        } else if current.node == self.settings.node {
            HolderLocation::ThisNode
        } else {
            HolderLocation::OtherNode
        };
        let unbound_containers = record.history.into_iter().filter(|former| former.reason != SANDBOX_DIED);
        Ok(PodRecord {
            uid,
            addresses: addresses_on(&current.ips, interface),
            holder_location,
            holder: current.container_id.map(|container| (container, current.generation)),
            unbound_containers: unbound_containers.filter_map(|former| former.container_id).collect(),
        })
    }

    /// Names `container`, of the pod with this UID on this node, as the holder, one generation on. None: the record names
    /// it already, or there is none.
    pub async fn rebind(
        &self,
        name: &PodName,
        uid: &str,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(Generation, Vec<IpAddr>)>, IpamError> {
        let written = self.store.edit_endpoint(name, |endpoint| {
            let Some(status) = endpoint.status.as_mut() else { return false };
            if status.current.container_id.as_ref() == Some(container) {
                return false;
            }
            let now = Timestamp::now();
            status.end_holder(now, "Rebound");
            let current = &mut status.current;
            current.container_id = Some(container.clone());
            current.generation = current.generation.next();
            current.state = HolderState::Bound;
            current.bound_at = Some(now);
            uid.clone_into(&mut current.uid);
            current.node.clone_from(&self.settings.node);
            endpoint.label_with_node(&self.settings.node);
            true
        });
        let Some(current) = written.await?.and_then(|endpoint| endpoint.status).map(|status| status.current) else {
            return Ok(None);
        };
        Ok(Some((current.generation, addresses_on(&current.ips, interface))))
    }

    /// Takes a dead container out of its record; the addresses stay, whoever owns the pod. False: the record names
    /// another by now.
    pub async fn end_holder(&self, name: &PodName, container: &ContainerId, reason: &str) -> Result<bool, IpamError> {
        let written = self.store.edit_endpoint(name, |endpoint| {
            let Some(status) = endpoint.status.as_mut() else { return false };
            if status.current.container_id.as_ref() != Some(container) {
                return false;
            }
            status.end_holder(Timestamp::now(), reason);
            status.current.state = HolderState::Reserved;
            true
        });
        Ok(written.await?.is_some())
    }

    /// The pods on this node. Not read live: good for what is looked at again.
    pub async fn pods_on_node(&self) -> Result<Vec<Pod>, IpamError> {
        Ok(self.store.pods_on(&self.settings.node).await?)
    }

    /// The endpoints that are bound on this node.
    pub async fn endpoints_on_node(&self) -> Result<Vec<SpiderEndpoint>, IpamError> {
        Ok(self.store.endpoints_labelled(NODE_LABEL, &label_value(&self.settings.node)).await?)
    }

    /// Whether the container is the one that the endpoint names, and its pod still runs.
    pub async fn is_live_holder(&self, name: &PodName, container: &ContainerId) -> Result<bool, IpamError> {
        let (pod, endpoint) = tokio::try_join!(self.store.pod(name), self.store.endpoint(name))?;
        let Some(current) = endpoint.and_then(|endpoint| endpoint.status).map(|status| status.current) else {
            return Ok(false);
        };
        let same_pod = pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&current.uid));
        Ok(same_pod && current.container_id.as_ref() == Some(container))
    }

    /// Whether the API server answers.
    pub async fn ping_api_server(&self) -> Result<(), IpamError> {
        self.store.node(&self.settings.node).await?;
        Ok(())
    }
}

/// The addresses of one interface.
fn addresses_on(ips: &[EndpointIp], interface: &IfName) -> Vec<IpAddr> {
    let of_interface = ips.iter().filter(|ip| ip.interface == interface.as_str());
    of_interface.flat_map(EndpointIp::networks).map(|net| net.addr()).collect()
}
