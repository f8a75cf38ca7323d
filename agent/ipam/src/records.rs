//! Reads of a pod's records, and corrections of the holder that they name.

use std::net::IpAddr;

use holdfast_api::{
    endpoint::{EndpointIp, EndpointStatus, HolderState, SpiderEndpoint},
    labels::NODE_LABEL,
};
use holdfast_core::id::{ContainerId, Generation, IfName, PodName};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{error::IpamError, ipam::Ipam};

/// The records of a pod's interface, as the API server has them now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// The UID of the API server's current pod of that name.
    pub uid: Option<String>,
    /// The container that the endpoint names as the holder, and its generation.
    pub holder: Option<(ContainerId, Generation)>,
    /// The location where that container may run.
    pub holder_location: HolderLocation,
    /// Former holders that a DEL or a newer sandbox ended. A holder that ended as [`SANDBOX_DIED`] is not among them: it may
    /// be alive after all.
    pub unbound_containers: Vec<String>,
    /// The addresses that the endpoint lists for the interface.
    pub addresses: Vec<IpAddr>,
}

/// The location where the holder that an endpoint names may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderLocation {
    /// This node.
    ThisNode,
    /// Another node.
    OtherNode,
    /// None: it belonged to a pod that a newer one of the same name has replaced.
    PodReplaced,
}

/// The reason, in an endpoint's history, for the end of a holder whose sandbox was found dead.
pub const SANDBOX_DIED: &str = "SandboxDied";

impl PodRecord {
    fn new(uid: Option<String>, status: EndpointStatus, interface: &IfName, this_node: &str) -> Self {
        let current = status.current;
        let holder_location = if uid.as_ref().is_some_and(|uid| !current.uid.is_empty() && *uid != current.uid) {
            HolderLocation::PodReplaced
        } else if current.node == this_node {
            HolderLocation::ThisNode
        } else {
            HolderLocation::OtherNode
        };
        let unbound_containers = status.history.into_iter().filter(|former| former.reason != SANDBOX_DIED);
        Self {
            uid,
            addresses: addresses_on(&current.ips, interface),
            holder_location,
            holder: current.container_id.map(|container| (container, current.generation)),
            unbound_containers: unbound_containers.filter_map(|former| former.container_id).collect(),
        }
    }
}

impl Ipam {
    /// Returns the endpoint's entry for the container's interface, and the generation. Returns none where the endpoint does
    /// not name the container as its holder.
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

    /// Returns the API server's current pod of that name.
    pub async fn pod(&self, name: &PodName) -> Result<Option<Pod>, IpamError> {
        Ok(self.store.pod(name).await?)
    }

    /// Returns the records of a pod's interface.
    pub async fn pod_record(&self, name: &PodName, interface: &IfName) -> Result<PodRecord, IpamError> {
        let (pod, endpoint) = tokio::try_join!(self.store.pod(name), self.store.endpoint(name))?;
        let status = endpoint.and_then(|endpoint| endpoint.status).unwrap_or_default();
        Ok(PodRecord::new(pod.and_then(|pod| pod.metadata.uid), status, interface, &self.settings.node))
    }

    /// Makes `container`, of the pod with this UID on this node, the holder at the next generation. Returns the generation
    /// and the interface's addresses; none where the endpoint names the container already, or does not exist.
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

    /// Ends a dead container as the holder; its addresses stay reserved for the pod. Returns false where the endpoint names
    /// another container.
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

    /// Returns the pods on this node from the API server's cache. They may be out of date.
    pub async fn pods_on_node(&self) -> Result<Vec<Pod>, IpamError> {
        Ok(self.store.pods_on(&self.settings.node).await?)
    }

    /// Returns the endpoints that are bound on this node.
    pub async fn endpoints_on_node(&self) -> Result<Vec<SpiderEndpoint>, IpamError> {
        Ok(self.store.endpoints_labelled(NODE_LABEL, &self.settings.node).await?)
    }

    /// Returns true where the endpoint names the container as the holder and its pod exists.
    pub async fn is_live_holder(&self, name: &PodName, container: &ContainerId) -> Result<bool, IpamError> {
        let (pod, endpoint) = tokio::try_join!(self.store.pod(name), self.store.endpoint(name))?;
        let Some(current) = endpoint.and_then(|endpoint| endpoint.status).map(|status| status.current) else {
            return Ok(false);
        };
        let same_pod = pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&current.uid));
        Ok(same_pod && current.container_id.as_ref() == Some(container))
    }

    /// Returns once the API server has answered a read.
    pub async fn ping_api_server(&self) -> Result<(), IpamError> {
        self.store.node(&self.settings.node).await?;
        Ok(())
    }
}

/// Returns the addresses of one interface.
fn addresses_on(ips: &[EndpointIp], interface: &IfName) -> Vec<IpAddr> {
    let of_interface = ips.iter().filter(|ip| ip.interface == interface.as_str());
    of_interface.flat_map(EndpointIp::networks).map(|net| net.addr()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(pod_uid: Option<&str>) -> PodRecord {
        let former = |container, reason| json!({"uid": "one", "containerID": container, "generation": 1, "endedAt": "2026-01-01T00:00:00Z", "reason": reason});
        let status = json!({
            "current": {"uid": "one", "node": "n1", "containerID": "c3", "generation": 3, "ips": [
                {"interface": "eth0", "ipv4": "10.0.0.1/24", "ipv6": "fd00::1/64"},
                {"interface": "net1", "ipv4": "10.0.0.2/24"},
            ]},
            "history": [former("c2", SANDBOX_DIED), former("c1", "Rebound")],
        });
        let (uid, interface) = (pod_uid.map(str::to_owned), "eth0".parse().unwrap());
        PodRecord::new(uid, serde_json::from_value(status).unwrap(), &interface, "n1")
    }

    #[test]
    fn a_record_has_the_holder_and_the_addresses_of_the_interface() {
        let record = record(Some("one"));
        assert_eq!(record.holder, Some(("c3".parse().unwrap(), Generation(3))));
        let expected: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(record.addresses, expected);
        assert_eq!(record.unbound_containers, ["c1"], "a sandbox found dead may be alive");
    }

    #[test]
    fn the_holder_is_located_by_its_node_and_the_uid_of_the_pod() {
        assert_eq!(record(Some("one")).holder_location, HolderLocation::ThisNode);
        assert_eq!(record(None).holder_location, HolderLocation::ThisNode, "its pod is gone, its sandbox may run");
        assert_eq!(record(Some("two")).holder_location, HolderLocation::PodReplaced);
        let status = json!({"current": {"uid": "one", "node": "n2", "generation": 1, "ips": []}});
        let status = serde_json::from_value(status).unwrap();
        let elsewhere = PodRecord::new(Some("one".to_owned()), status, &"eth0".parse().unwrap(), "n1");
        assert_eq!(elsewhere.holder_location, HolderLocation::OtherNode);
    }
}
