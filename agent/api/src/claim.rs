//! `IPClaim`: one address in use. The object's name is the address, so its creation is the lock that makes the address
//! unique.

use std::net::IpAddr;

use holdfast_core::id::PodName;
use jiff::Timestamp;
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels::{POOL_LABEL, label_value};

/// The pool of a claim whose address is in no pool. No pool can have that name.
pub const NO_POOL: &str = "(none)";

/// The address and the endpoint that it belongs to.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.io",
    version = "v1alpha1",
    kind = "IPClaim",
    plural = "ipclaims",
    shortname = "ipc",
    category = "spiderpool",
    derive = "PartialEq",
    doc = "An IP address in use",
    printcolumn(name = "ADDRESS", type_ = "string", json_path = ".spec.address", description = "address"),
    printcolumn(name = "POOL", type_ = "string", json_path = ".spec.pool", description = "pool"),
    printcolumn(name = "ENDPOINT", type_ = "string", json_path = ".spec.endpoint", description = "endpoint"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".spec.state", description = "state", priority = 10),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IpClaimSpec {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The pool that the address is from.
    pub pool: String,
    /// The endpoint that it belongs to: `namespace/name`.
    #[schemars(regex(pattern = r"^[^/]+/[^/]+$"))]
    pub endpoint: String,
    /// The state of the address.
    #[serde(default)]
    pub state: ClaimState,
    /// The time of the release.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub released_at: Option<Timestamp>,
}

/// The state of a claimed address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClaimState {
    /// It is in use.
    #[default]
    Held,
    /// It is released, but not given to another pod until its cooldown is over.
    Released,
}

impl IPClaim {
    /// Returns a claim of `address` for `endpoint`, not yet on the API server.
    pub fn held(address: IpAddr, pool: &str, endpoint: &PodName) -> Self {
        let spec = IpClaimSpec {
            address,
            pool: pool.to_owned(),
            endpoint: endpoint.to_string(),
            state: ClaimState::Held,
            released_at: None,
        };
        let mut claim = Self::new(&name_of(address), spec);
        claim.labels_mut().insert(POOL_LABEL.to_owned(), label_value(pool).into_owned());
        claim
    }

    /// Returns true where the claim belongs to `endpoint`.
    pub fn belongs_to(&self, endpoint: &PodName) -> bool {
        self.endpoint().as_ref() == Some(endpoint)
    }

    /// Returns the endpoint that the claim belongs to; none where its text is not `namespace/name`.
    pub fn endpoint(&self) -> Option<PodName> {
        let (namespace, name) = self.spec.endpoint.split_once('/')?;
        Some(PodName::new(namespace, name))
    }
}

/// Returns the name of the claim of an address. An object's name may contain no colon, so that of an IPv6 address has all
/// eight groups, joined by dashes.
pub fn name_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.segments().map(|group| format!("{group:x}")).join("-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_one_valid_name() {
        let cases = [
            ("172.22.40.181", "172.22.40.181"),
            ("::ffff:172.22.40.181", "172.22.40.181"),
            ("fd00:22::1", "fd00-22-0-0-0-0-0-1"),
            ("FD00:0022:0::0001", "fd00-22-0-0-0-0-0-1"),
            ("::", "0-0-0-0-0-0-0-0"),
        ];
        for (address, name) in cases {
            assert_eq!(name_of(address.parse().unwrap()), name);
        }
    }

    #[test]
    fn no_pool_has_a_label_value_of_its_own() {
        assert_eq!(label_value(NO_POOL), "none-8c36545f724b9460");
    }
}
