//! `SpiderIPPool`: the addresses that pods may get, and their holders.

use std::collections::BTreeMap;

use holdfast_core::pool::{Pool, PoolError, PoolSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The finalizer of the kinds that Spiderpool defines.
pub const FINALIZER: &str = "spiderpool.spidernet.io";

/// The addresses of a pool, and the pods that may use them.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderIPPool",
    plural = "spiderippools",
    shortname = "sp",
    category = "spiderpool",
    status = "IpPoolStatus",
    doc = "A set of IP addresses for pods",
    printcolumn(name = "VERSION", type_ = "string", json_path = ".spec.ipVersion", description = "ipVersion"),
    printcolumn(name = "SUBNET", type_ = "string", json_path = ".spec.subnet", description = "subnet"),
    printcolumn(
        name = "ALLOCATED-IP-COUNT",
        type_ = "integer",
        json_path = ".status.allocatedIPCount",
        description = "allocatedIPCount"
    ),
    printcolumn(
        name = "TOTAL-IP-COUNT",
        type_ = "integer",
        json_path = ".status.totalIPCount",
        description = "totalIPCount"
    ),
    printcolumn(name = "DEFAULT", type_ = "boolean", json_path = ".spec.default", description = "default"),
    printcolumn(
        name = "DISABLE",
        type_ = "boolean",
        json_path = ".spec.disable",
        description = "disable",
        priority = 10
    ),
    printcolumn(
        name = "NodeName",
        type_ = "string",
        json_path = ".spec.nodeName",
        description = "nodeName",
        priority = 10
    ),
    printcolumn(
        name = "MultusName",
        type_ = "string",
        json_path = ".spec.multusName",
        description = "multusName",
        priority = 10
    )
)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// 4 or 6. Taken from `subnet` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 6), extend("enum" = [4, 6]))]
    pub ip_version: Option<i64>,
    /// The network that the addresses are in, as CIDR.
    #[schemars(extend("format" = "cidr"))]
    pub subnet: String,
    /// The pool's addresses: single ones or ranges `first-last`. Absent: an empty pool.
    #[serde(default, rename = "ips", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Addresses of `ips` that are not allocated: single ones or ranges `first-last`.
    #[serde(default, rename = "excludeIPs", skip_serializing_if = "Vec::is_empty")]
    pub exclude_ips: Vec<String>,
    /// The default route's next hop. It is not allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The VLAN of the subnet; 0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan: Option<i64>,
    /// Further routes for the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Only pods with these labels use the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_affinity: Option<LabelSelector>,
    /// Only pods in namespaces with these labels use the pool. `namespaceName` takes precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_affinity: Option<LabelSelector>,
    /// Only pods on nodes with these labels use the pool. `nodeName` takes precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<LabelSelector>,
    /// Only pods in these namespaces use the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_name: Vec<String>,
    /// Only pods on these nodes use the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_name: Vec<String>,
    /// Only interfaces of these Multus network attachments (`namespace/name`) use the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub multus_name: Vec<String>,
    /// Used by pods for which no annotation and no configuration names a pool.
    #[serde(default)]
    pub default: bool,
    /// New pods get no address of the pool.
    #[serde(default)]
    pub disable: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The destination, as CIDR.
    #[schemars(extend("format" = "cidr"))]
    pub dst: String,
    /// The next hop.
    pub gw: String,
}

/// The pool as the controller last saw it. A view: no allocation is decided by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolStatus {
    /// JSON: address → `Allocation`. Absent when no address is in use.
    #[serde(rename = "allocatedIPs", skip_serializing_if = "Option::is_none")]
    pub allocated_ips: Option<String>,
    /// The number of addresses that the pool has.
    #[serde(rename = "totalIPCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_ip_count: Option<i64>,
    /// The number of addresses in use.
    #[serde(rename = "allocatedIPCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub allocated_ip_count: Option<i64>,
    /// The conditions of the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The holder of one address, as `status.allocatedIPs` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The interface in the pod.
    #[serde(default)]
    pub interface: String,
    /// `namespace/name`.
    #[serde(default)]
    pub pod: String,
    /// The pod's UID.
    #[serde(default)]
    pub pod_uid: String,
    /// The sandbox that holds the address now. Absent while a sticky address is reserved.
    #[serde(rename = "containerID", default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
}

/// The content of `status.allocatedIPs`, sorted by the addresses' text.
pub type Allocations = BTreeMap<String, Allocation>;

impl IpPoolSpec {
    /// Returns the addresses and geometry that the spec describes.
    pub fn parse(&self) -> Result<Pool, PoolError> {
        Pool::parse(&PoolSpec {
            version: self.ip_version,
            subnet: &self.subnet,
            ips: &self.ips,
            exclude: &self.exclude_ips,
            gateway: self.gateway.as_deref().filter(|gateway| !gateway.is_empty()),
            vlan: self.vlan,
        })
    }
}

impl SpiderIPPool {
    /// Returns true where another IPAM wrote the status last: it has records, and none of the conditions that the
    /// controller writes with each. The other IPAM's addresses may have no claims yet.
    pub fn is_foreign(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.allocated_ips.is_some() && status.conditions.is_empty())
    }
}
