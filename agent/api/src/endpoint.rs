//! `SpiderEndpoint`: a pod's addresses and their present holder.

use std::{borrow::Cow, collections::HashSet, net::IpAddr};

use holdfast_core::id::{ContainerId, Generation, PodName};
use ipnet::IpNet;
use jiff::Timestamp;
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ippool::Route,
    labels::{NODE_LABEL, label_value},
};

/// The owner kind whose pods keep their addresses.
pub const STATEFUL_SET: &str = "StatefulSet";

/// The number of former holders that an endpoint keeps.
pub const HISTORY_LIMIT: usize = 16;

/// A `SpiderEndpoint` has no spec: its data is its status, which is written with a plain update.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderEndpoint",
    plural = "spiderendpoints",
    shortname = "se",
    category = "spiderpool",
    namespaced,
    no_spec,
    derive = "PartialEq",
    status = "EndpointStatus",
    doc = "The addresses of one pod, and which container holds them",
    printcolumn(
        name = "INTERFACE",
        type_ = "string",
        json_path = ".status.current.ips[0].interface",
        description = "interface"
    ),
    printcolumn(
        name = "IPV4POOL",
        type_ = "string",
        json_path = ".status.current.ips[0].ipv4Pool",
        description = "ipv4Pool"
    ),
    printcolumn(name = "IPV4", type_ = "string", json_path = ".status.current.ips[0].ipv4", description = "ipv4"),
    printcolumn(
        name = "IPV6POOL",
        type_ = "string",
        json_path = ".status.current.ips[0].ipv6Pool",
        description = "ipv6Pool"
    ),
    printcolumn(name = "IPV6", type_ = "string", json_path = ".status.current.ips[0].ipv6", description = "ipv6"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".status.current.node", description = "node"),
    printcolumn(
        name = "CONTAINER",
        type_ = "string",
        json_path = ".status.current.containerID",
        description = "containerID",
        priority = 10
    ),
    printcolumn(
        name = "GENERATION",
        type_ = "integer",
        json_path = ".status.current.generation",
        description = "generation",
        priority = 10
    )
)]
pub struct SpiderEndpointFields {}

/// The addresses of a pod and their holders.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The present holder.
    #[serde(default)]
    pub current: Holder,
    /// The kind of the pod's owner: `StatefulSet`, `Deployment`, …, `Pod` for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner_controller_type: String,
    /// The name of the pod's owner.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner_controller_name: String,
    /// The UID of the pod's owner. Absent in records that an older IPAM made.
    #[serde(rename = "ownerControllerUID", skip_serializing_if = "Option::is_none")]
    pub owner_controller_uid: Option<String>,
    /// Former holders, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<FormerHolder>,
}

/// The holder of an endpoint's addresses.
///
/// Empty strings are omitted: an absent one says the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The addresses, an entry for each interface.
    #[serde(default)]
    pub ips: Vec<EndpointIp>,
    /// The sandbox. Absent while a sticky endpoint waits for its pod.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub container_id: Option<ContainerId>,
    /// The fencing token, which grows by one with each new holder.
    #[serde(default, with = "generation")]
    #[schemars(with = "i64", range(min = 0))]
    pub generation: Generation,
    /// The state of the addresses.
    #[serde(default)]
    pub state: HolderState,
    /// The time from which the container has held the addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub bound_at: Option<Timestamp>,
}

/// The state of an endpoint's addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HolderState {
    /// A container holds them.
    #[default]
    Bound,
    /// No container holds them; they are kept for the pod.
    Reserved,
}

/// The addresses of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointIp {
    /// The interface in the pod.
    pub interface: String,
    /// The IPv4 address with its subnet's prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// The IPv6 address with its subnet's prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// The pool of `ipv4`.
    #[serde(rename = "ipv4Pool", skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// The pool of `ipv6`.
    #[serde(rename = "ipv6Pool", skip_serializing_if = "Option::is_none")]
    pub ipv6_pool: Option<String>,
    /// The VLAN; 0 is none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan: i64,
    /// The next hop of the IPv4 default route.
    #[serde(rename = "ipv4Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<String>,
    /// The next hop of the IPv6 default route.
    #[serde(rename = "ipv6Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<String>,
    /// True where the interface gets no default route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_gateway: Option<bool>,
    /// Further routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The interface's hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A former holder of an endpoint's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FormerHolder {
    /// The pod's UID.
    pub uid: String,
    /// The node it ran on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The sandbox.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Its generation.
    #[serde(with = "generation")]
    #[schemars(with = "i64", range(min = 0))]
    pub generation: Generation,
    /// The time from which the container held the addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub bound_at: Option<Timestamp>,
    /// The time at which its holding ended.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub ended_at: Timestamp,
    /// The reason why it ended.
    pub reason: String,
}

impl SpiderEndpoint {
    /// Returns an endpoint for `pod` that lists no address, not yet on the API server.
    pub fn for_pod(pod: &PodName) -> Self {
        let mut endpoint = Self::new(&pod.name, SpiderEndpointFields {});
        endpoint.metadata.namespace = Some(pod.namespace.clone());
        endpoint
    }

    /// Labels the endpoint with a node, so that its agent watches the endpoint.
    pub fn label_with_node(&mut self, node: &str) {
        self.labels_mut().insert(NODE_LABEL.to_owned(), label_value(node).into_owned());
    }

    /// Returns the pod that the endpoint is for.
    pub fn pod(&self) -> PodName {
        PodName::new(self.namespace().unwrap_or_default(), self.name_any())
    }

    /// Returns the endpoint's status; the default one where there is none yet.
    pub fn record(&self) -> Cow<'_, EndpointStatus> {
        self.status.as_ref().map_or_else(|| Cow::Owned(EndpointStatus::default()), Cow::Borrowed)
    }

    /// Returns all addresses that the endpoint lists.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.status.iter().flat_map(|status| &status.current.ips);
        ips.flat_map(EndpointIp::networks).map(|net| net.addr()).collect()
    }

    /// Removes addresses from the list. Returns true where at least one was listed.
    pub fn drop_addresses(&mut self, addresses: &HashSet<IpAddr>) -> bool {
        let before = self.addresses().len();
        let ips = self.status.iter_mut().flat_map(|status| &mut status.current.ips);
        for ip in ips {
            for text in [&mut ip.ipv4, &mut ip.ipv6] {
                let net: Option<IpNet> = text.as_ref().and_then(|text| text.parse().ok());
                if net.is_some_and(|net| addresses.contains(&net.addr())) {
                    *text = None;
                }
            }
        }
        self.addresses().len() != before
    }

    /// Returns true where the endpoint lists `address`.
    pub fn lists(&self, address: IpAddr) -> bool {
        self.addresses().contains(&address)
    }
}

impl EndpointStatus {
    /// Returns true where the addresses outlive the pod: its owner is a StatefulSet.
    pub fn is_sticky(&self) -> bool {
        self.owner_controller_type == STATEFUL_SET
    }

    /// Moves the present holder into the history. The addresses stay.
    pub fn end_holder(&mut self, now: Timestamp, reason: &str) {
        let current = &mut self.current;
        let Some(container_id) = current.container_id.take() else { return };
        let former = FormerHolder {
            uid: current.uid.clone(),
            node: current.node.clone(),
            container_id: Some(container_id.into()),
            generation: current.generation,
            bound_at: current.bound_at.take(),
            ended_at: now,
            reason: reason.to_owned(),
        };
        self.history.insert(0, former);
        self.history.truncate(HISTORY_LIMIT);
    }
}

impl EndpointIp {
    /// Returns the addresses with their prefix lengths. Text that is not an address in CIDR form, which other tools may
    /// write, is skipped.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        [&self.ipv4, &self.ipv6].into_iter().flatten().filter_map(|text| text.parse().ok())
    }
}

/// Generations as signed 64-bit integers, the largest type that the API server's schemas have.
mod generation {
    use holdfast_core::id::Generation;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(generation: &Generation, serializer: S) -> Result<S::Ok, S::Error> {
        generation.0.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
        let value = i64::deserialize(deserializer)?;
        u64::try_from(value).map(Generation).map_err(|_| D::Error::custom("a generation is never negative"))
    }
}
