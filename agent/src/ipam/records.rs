//! What the records say of a pod, and corrections of who holds it.

use std::net::IpAddr;

use holdfast_api::endpoint::{EndpointIp, HolderState, NODE_LABEL, SpiderEndpoint};
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
    /// Whether that is on this node.
    pub here: bool,
    /// The addresses of the interface asked for.
    pub listed: Vec<IpAddr>,
}

impl Ipam {
    /// The record of the container's interface, for CHECK. None: the container is not the one that the endpoint names.
    pub async fn record(
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
    pub async fn look(&self, name: &PodName, interface: &IfName) -> Result<PodRecord, IpamError> {
        let (pod, endpoint) = tokio::try_join!(self.store.pod(name), self.store.endpoint(name))?;
        let current = endpoint.and_then(|endpoint| endpoint.status).map(|status| status.current).unwrap_or_default();
        let listed = current.ips.iter().filter(|ip| ip.interface == interface.as_str()).flat_map(EndpointIp::networks);
        Ok(PodRecord {
            uid: pod.and_then(|pod| pod.metadata.uid),
            listed: listed.map(|net| net.addr()).collect(),
            here: current.node == self.settings.node,
            holder: current.container_id.map(|container| (container, current.generation)),
        })
    }

    /// Names `container` as the holder, one generation on. None: the record names it already, or lists nothing for it.
    pub async fn rebind(
        &self,
        name: &PodName,
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
            true
        });
        let Some(current) = written.await?.and_then(|endpoint| endpoint.status).map(|status| status.current) else {
            return Ok(None);
        };
        let listed = current.ips.iter().filter(|ip| ip.interface == interface.as_str()).flat_map(EndpointIp::networks);
        Ok(Some((current.generation, listed.map(|net| net.addr()).collect())))
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

    /// The endpoints that are bound on this node.
    pub async fn endpoints_here(&self) -> Result<Vec<SpiderEndpoint>, IpamError> {
        Ok(self.store.endpoints_labelled(NODE_LABEL, &self.settings.node).await?)
    }

    /// Whether the container is the one that the endpoint names, and its pod still runs.
    pub async fn is_live(&self, name: &PodName, container: &ContainerId) -> Result<bool, IpamError> {
        let (pod, endpoint) = tokio::try_join!(self.store.pod(name), self.store.endpoint(name))?;
        let Some(current) = endpoint.and_then(|endpoint| endpoint.status).map(|status| status.current) else {
            return Ok(false);
        };
        let same_pod = pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&current.uid));
        Ok(same_pod && current.container_id.as_ref() == Some(container))
    }

    /// Whether the API server answers.
    pub async fn reach_api_server(&self) -> Result<(), IpamError> {
        self.store.node(&self.settings.node).await?;
        Ok(())
    }
}
