//! The records of the addresses' holders.

use std::net::IpAddr;

use async_trait::async_trait;
use holdfast_api::endpoint::{EndpointIp, SpiderEndpoint};
use holdfast_core::id::{ContainerId, Generation, IfName, PodName};
use holdfast_ipam::{BindRequest, IpAllocation, Ipam, IpamError, PodRecord, UnbindOutcome, UnbindRequest};
use k8s_openapi::api::core::v1::Pod;

/// Endpoints and claims, and the pods that they are for. The methods are those of [`Ipam`], which says more of each.
/// All reads are live, but for [`Self::pods_on_node`] and [`Self::endpoints_on_node`].
#[async_trait]
pub trait Records: Send + Sync {
    /// Gives a container its addresses.
    async fn bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError>;

    /// Takes an interface of a container out of the records, if it is the container that they name.
    async fn unbind(&self, request: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError>;

    /// Marks the claims of addresses that a pod's endpoint lists no more. Failures are logged.
    async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]);

    /// Returns the record of a container's interface. None: the container is not the one that the endpoint names.
    async fn interface_record(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(EndpointIp, Generation)>, IpamError>;

    /// Returns what the records say of a pod's interface.
    async fn pod_record(&self, pod: &PodName, interface: &IfName) -> Result<PodRecord, IpamError>;

    /// Names a container as its pod's holder, one generation on. None: the record names it already, or there is none.
    async fn rebind(
        &self,
        pod: &PodName,
        uid: &str,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(Generation, Vec<IpAddr>)>, IpamError>;

    /// Takes a container out of its record; the addresses stay. False: the record names another.
    async fn end_holder(&self, pod: &PodName, container: &ContainerId, reason: &str) -> Result<bool, IpamError>;

    /// Returns whether the container is the one that the endpoint names, and its pod still runs.
    async fn is_live_holder(&self, pod: &PodName, container: &ContainerId) -> Result<bool, IpamError>;

    /// Returns the API server's current pod of that name.
    async fn pod(&self, pod: &PodName) -> Result<Option<Pod>, IpamError>;

    /// Returns the pods on this node.
    async fn pods_on_node(&self) -> Result<Vec<Pod>, IpamError>;

    /// Returns the endpoints that are bound on this node.
    async fn endpoints_on_node(&self) -> Result<Vec<SpiderEndpoint>, IpamError>;

    /// Returns an error if the API server does not answer.
    async fn ping_api_server(&self) -> Result<(), IpamError>;
}

#[async_trait]
impl Records for Ipam {
    async fn bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError> {
        self.bind(request).await
    }

    async fn unbind(&self, request: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError> {
        self.unbind(request).await
    }

    async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]) {
        self.release_addresses(pod, addresses).await;
    }

    async fn interface_record(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(EndpointIp, Generation)>, IpamError> {
        self.interface_record(pod, container, interface).await
    }

    async fn pod_record(&self, pod: &PodName, interface: &IfName) -> Result<PodRecord, IpamError> {
        self.pod_record(pod, interface).await
    }

    async fn rebind(
        &self,
        pod: &PodName,
        uid: &str,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<Option<(Generation, Vec<IpAddr>)>, IpamError> {
        self.rebind(pod, uid, container, interface).await
    }

    async fn end_holder(&self, pod: &PodName, container: &ContainerId, reason: &str) -> Result<bool, IpamError> {
        self.end_holder(pod, container, reason).await
    }

    async fn is_live_holder(&self, pod: &PodName, container: &ContainerId) -> Result<bool, IpamError> {
        self.is_live_holder(pod, container).await
    }

    async fn pod(&self, pod: &PodName) -> Result<Option<Pod>, IpamError> {
        self.pod(pod).await
    }

    async fn pods_on_node(&self) -> Result<Vec<Pod>, IpamError> {
        self.pods_on_node().await
    }

    async fn endpoints_on_node(&self) -> Result<Vec<SpiderEndpoint>, IpamError> {
        self.endpoints_on_node().await
    }

    async fn ping_api_server(&self) -> Result<(), IpamError> {
        self.ping_api_server().await
    }
}
