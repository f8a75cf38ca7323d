//! `SpiderReservedIP`: addresses that no pod gets.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Addresses that are not allocated, whichever pool has them.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderReservedIP",
    plural = "spiderreservedips",
    shortname = "sr",
    category = "spiderpool",
    doc = "IP addresses that no pod gets",
    printcolumn(name = "VERSION", type_ = "string", json_path = ".spec.ipVersion", description = "ipVersion")
)]
#[serde(rename_all = "camelCase")]
pub struct ReservedIpSpec {
    /// 4 or 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 6), extend("enum" = [4, 6]))]
    pub ip_version: Option<i64>,
    /// Single addresses or ranges `first-last`.
    #[serde(default)]
    pub ips: Vec<String>,
}
