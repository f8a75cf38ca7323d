//! Identifiers, parsed once where they enter.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The reason why an identifier was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The CNI spec (section 2) allows a letter or digit, then letters, digits, `_`, `.`, `-`.
    #[error("container ID {0:?} is not a letter or digit followed by letters, digits, '_', '.' or '-'")]
    ContainerId(String),
    /// A Linux interface name has 1 to 15 bytes and no `/`, `:` or white space; `.` and `..` are taken.
    #[error("interface name {0:?} is not 1 to 15 characters without '/', ':' or white space")]
    IfName(String),
}

/// The runtime's ID of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Returns eight bytes that stand for the container in the kernel's maps, where a string would be too large.
    pub fn tag(&self) -> u64 {
        digest_head(self.0.as_bytes())
    }

    /// Returns the name of the host end of this container's link. It derives from the container and the interface alone,
    /// so pods of one name never collide, and a late DEL finds only its own link.
    pub fn host_link(&self, interface: &IfName) -> IfName {
        let number = digest_head(format!("{}/{interface}", self.0).as_bytes()) >> 16;
        IfName(format!("hf{number:012x}"))
    }

    /// Returns the ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the first eight bytes of the SHA-256 digest of `bytes`.
pub(crate) fn digest_head(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let first_ok = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest_ok = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if first_ok && rest_ok { Ok(Self(text.to_owned())) } else { Err(IdError::ContainerId(text.to_owned())) }
    }
}

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let length_ok = (1..=15).contains(&text.len());
        let bytes_ok = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
        if length_ok && bytes_ok && text != "." && text != ".." {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::IfName(text.to_owned()))
        }
    }
}

/// The kernel's index of a network interface, unique within one network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IfIndex(pub u32);

/// The fencing token: it grows by one whenever an endpoint's holder changes. 0: the endpoint was never held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// Returns the generation of the next holder.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The namespace and name of a pod, and so of its endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// The namespace.
    pub namespace: String,
    /// The name in the namespace.
    pub name: String,
}

impl PodName {
    /// Returns the name `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl TryFrom<String> for IfName {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

/// Returns the ordinal of a StatefulSet's pod: the number after the set's name. None where `pod` is not named like one of
/// the set's.
pub fn ordinal(pod: &str, set: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok().filter(|ordinal| *ordinal >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_follow_the_cni_spec() {
        for good in ["a", "0f", "a_b.c-d"] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä"] {
            assert_eq!(bad.parse::<ContainerId>(), Err(IdError::ContainerId(bad.to_owned())));
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a", "fifteen-chars-1"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-chars-12"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn host_links_differ_by_container_and_interface() {
        let (a, b): (ContainerId, ContainerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (eth0, net1): (IfName, IfName) = ("eth0".parse().unwrap(), "net1".parse().unwrap());
        assert_ne!(a.host_link(&eth0), b.host_link(&eth0));
        assert_ne!(a.host_link(&eth0), a.host_link(&net1));
        assert!(a.host_link(&eth0).as_str().parse::<IfName>().is_ok());
    }

    #[test]
    fn ordinals_are_the_number_after_the_name_of_the_set() {
        assert_eq!(ordinal("web-12", "web"), Some(12));
        for other in ["web", "web-", "web-x", "webb-1", "web--1"] {
            assert_eq!(ordinal(other, "web"), None, "{other}");
        }
    }
}
