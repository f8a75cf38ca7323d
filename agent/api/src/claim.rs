//! `IPClaim`: one address in use. The object's name is the address, so creating it is the lock that makes the
//! address unique.

use std::{borrow::Cow, net::IpAddr};

use holdfast_core::id::PodName;
use jiff::Timestamp;
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The pool of a claim's address, to list a pool's claims. Its value is [`label_value`] of the pool's name.
pub const POOL_LABEL: &str = "holdfast.io/pool";

/// Stands for the pool of an address that no pool gives out: no pool can have that name.
pub const NO_POOL: &str = "(none)";

/// How long the value of a label may be. Names may have 253 characters.
const LABEL_LIMIT: usize = 63;

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
    /// The pool it came from.
    pub pool: String,
    /// The endpoint that it belongs to: `namespace/name`.
    #[schemars(regex(pattern = r"^[^/]+/[^/]+$"))]
    pub endpoint: String,
    /// Whether the address is in use.
    #[serde(default)]
    pub state: ClaimState,
    /// When it was released.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub released_at: Option<Timestamp>,
}

/// Whether a claimed address is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClaimState {
    /// It is.
    #[default]
    Held,
    /// It rests: free, but given to nobody else until the rest is over.
    Released,
}

impl IPClaim {
    /// A claim of `address` for `endpoint`, not yet on the API server.
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

    /// Whether the claim belongs to `endpoint`.
    pub fn belongs_to(&self, endpoint: &PodName) -> bool {
        self.endpoint().as_ref() == Some(endpoint)
    }

    /// The endpoint that the claim belongs to. None where somebody wrote no `namespace/name`.
    pub fn endpoint(&self) -> Option<PodName> {
        let (namespace, name) = self.spec.endpoint.split_once('/')?;
        Some(PodName::new(namespace, name))
    }
}

/// The name of the claim of an address: an object's name may hold no colon, so an IPv6 address stands there with
/// all of its eight groups, joined by dashes.
pub fn name_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.segments().map(|group| format!("{group:x}")).join("-"),
    }
}

/// The label's value that stands for a name, in objects and selectors alike: the name itself where it may stand in a
/// label, else its beginning and a hash of the whole. Two names may share one, if hardly ever: what a selector finds is
/// asked for its name.
pub fn label_value(name: &str) -> Cow<'_, str> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |text: &str| [text.bytes().next(), text.bytes().last()].iter().flatten().all(u8::is_ascii_alphanumeric);
    if name.len() <= LABEL_LIMIT && name.bytes().all(inside) && ends(name) {
        return Cow::Borrowed(name);
    }
    // FNV-1a: the same in every version of holdfast, on every machine.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let kept: String = name.bytes().filter(|byte| inside(*byte)).map(char::from).take(LABEL_LIMIT - 17).collect();
    let kept = kept.trim_start_matches(|first: char| !first.is_ascii_alphanumeric());
    let dash = if kept.is_empty() { "" } else { "-" };
    Cow::Owned(format!("{kept}{dash}{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_stand_in_a_label() {
        for plain in ["default-v4", "node1.example.com", &"a".repeat(63), ""] {
            assert_eq!(label_value(plain), plain);
        }
        let long = "pool-".repeat(40);
        for odd in [&long, &format!("{long}x"), NO_POOL, "-a", "a.", "ä", "a b", &"-".repeat(80)] {
            let value = label_value(odd);
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            assert!(value.len() <= 63 && value.bytes().all(fine), "{odd} became {value}");
            let ends = [value.bytes().next().unwrap(), value.bytes().last().unwrap()];
            assert!(ends.iter().all(u8::is_ascii_alphanumeric), "{odd} became {value}");
        }
        assert_ne!(label_value(&long), label_value(&format!("{long}x")));
        assert_eq!(label_value(NO_POOL), "none-8c36545f724b9460");
    }

    #[test]
    fn names_are_one_for_each_address_and_valid() {
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
}
