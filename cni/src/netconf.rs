//! The network configuration. Unknown keys are accepted and ignored.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{
    error::{CniError, code},
    version::CniVersion,
};

/// The agent's socket if the configuration has no `ipam_unix_socket_path`.
pub const DEFAULT_SOCKET: &str = "/run/holdfast/agent.sock";

/// The network configuration of holdfast, or of an interface plugin that delegates to it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// `cniVersion`, parsed by [`NetConf::version`].
    #[serde(default)]
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// `type`, the name of the interface plugin.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The kind of interface that holdfast creates.
    #[serde(default)]
    pub mode: Mode,
    /// The interface's MTU in bytes; the uplink's if absent or 0.
    #[serde(default, deserialize_with = "zero_is_absent")]
    pub mtu: Option<u32>,
    /// The node's uplink; if absent, the interface in the pool's subnet, else that of the default route.
    #[serde(default, deserialize_with = "empty_is_absent")]
    pub master: Option<String>,
    /// The `ipam` section.
    #[serde(default)]
    pub ipam: Ipam,
    /// The result of the previous plugin in the list (ADD) or of the last ADD (CHECK, DEL).
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// The attachments that GC keeps. The specification requires the list: an absent one is an error, not an empty
    /// list.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The `ipam` keys at top level, for a holdfast configuration without an `ipam` section.
    #[serde(flatten)]
    top: Ipam,
}

/// The `ipam` section, with Spiderpool's keys.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Ipam {
    /// `type`, the name of the IPAM plugin.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// The IPv4 pools, in order of preference.
    #[serde(default)]
    pub default_ipv4_ippool: Option<Vec<String>>,
    /// The IPv6 pools, in order of preference.
    #[serde(default)]
    pub default_ipv6_ippool: Option<Vec<String>>,
    /// True leaves the container without a default route.
    #[serde(default)]
    pub clean_gateway: Option<bool>,
    /// Accepted for Spiderpool's configurations and ignored: the agent has its own log.
    #[serde(default)]
    pub log_level: Option<String>,
    /// Accepted for Spiderpool's configurations and ignored.
    #[serde(default)]
    pub log_file_path: Option<String>,
    /// The agent's socket.
    #[serde(default)]
    pub ipam_unix_socket_path: Option<PathBuf>,
}

/// The kind of interface that holdfast creates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A veth pair. The node routes between it and the LAN, and answers ARP and ND on the LAN for the pod.
    #[default]
    Veth,
}

/// An attachment that GC keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The container ID.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The name of the interface in the container.
    pub ifname: String,
}

impl NetConf {
    /// Parses a configuration; the error (code 7) names the invalid key.
    pub fn from_value(value: &Value) -> Result<Self, CniError> {
        let Some(object) = value.as_object() else {
            let msg = "the network configuration is not a JSON object";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        let mut own = object.clone();
        if is_delegated(value) {
            own.retain(|key, _| !INTERFACE_KEYS.contains(&key.as_str()));
        }
        let mut conf = Self::deserialize(Value::Object(own)).map_err(|error| {
            CniError::new(code::INVALID_CONFIG, format!("the network configuration is invalid: {error}"))
        })?;
        conf.ipam = conf.ipam.or(std::mem::take(&mut conf.top));
        Ok(conf)
    }

    /// Returns the CNI version of the configuration, which the result has to have; errors have code 1.
    pub fn version(&self) -> Result<CniVersion, CniError> {
        if self.cni_version.is_empty() {
            let msg = format!("the network configuration has no cniVersion; holdfast supports {}", CniVersion::list());
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
        }
        self.cni_version.parse()
    }

    /// Returns the path of the agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.ipam.ipam_unix_socket_path.clone().unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Returns true if the container gets no default route.
    pub fn clean_gateway(&self) -> bool {
        self.ipam.clean_gateway.unwrap_or(false)
    }
}

/// The keys about the interface. In the configuration of a delegating plugin they belong to that plugin: macvlan's
/// `mode` is `bridge`.
const INTERFACE_KEYS: [&str; 3] = ["master", "mode", "mtu"];

/// Returns true if the configuration is of another interface plugin, which delegates to holdfast.
fn is_delegated(value: &Value) -> bool {
    let delegates = value["ipam"]["type"].is_string();
    delegates && value["type"].as_str().is_some_and(|kind| !kind.is_empty() && kind != "holdfast")
}

impl Ipam {
    /// Returns this section with absent keys taken from `top`, except `type`, which at top level is the interface
    /// plugin.
    fn or(self, top: Self) -> Self {
        Self {
            kind: self.kind,
            default_ipv4_ippool: self.default_ipv4_ippool.or(top.default_ipv4_ippool),
            default_ipv6_ippool: self.default_ipv6_ippool.or(top.default_ipv6_ippool),
            clean_gateway: self.clean_gateway.or(top.clean_gateway),
            log_level: self.log_level.or(top.log_level),
            log_file_path: self.log_file_path.or(top.log_file_path),
            ipam_unix_socket_path: self.ipam_unix_socket_path.or(top.ipam_unix_socket_path),
        }
    }
}

fn zero_is_absent<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(input)?.filter(|&mtu| mtu != 0))
}

fn empty_is_absent<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(input)?.filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configuration_of_the_interface_plugin_is_parsed() {
        let conf = NetConf::from_value(&json!({
            "cniVersion": "1.0.0", "name": "lan", "type": "holdfast", "mode": "veth", "mtu": 1400, "master": "eth1",
            "default_ipv4_ippool": ["a", "b"], "ipam_unix_socket_path": "/x.sock", "capabilities": {"mac": true},
        }))
        .unwrap();
        assert_eq!(conf.version().unwrap(), CniVersion::V1_0_0);
        assert_eq!(conf.mtu, Some(1400));
        assert_eq!(conf.master.as_deref(), Some("eth1"));
        assert_eq!(conf.ipam.default_ipv4_ippool.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(conf.ipam.kind, None);
        assert_eq!(conf.socket(), PathBuf::from("/x.sock"));
    }

    #[test]
    fn ipam_section_overrides_the_top_level() {
        let conf = NetConf::from_value(&json!({
            "cniVersion": "0.3.1", "name": "lan", "type": "macvlan", "default_ipv4_ippool": ["top"], "clean_gateway": true,
            "ipam": {"type": "spiderpool", "default_ipv4_ippool": ["section"], "log_level": "DEBUG", "more": {}},
        }))
        .unwrap();
        assert_eq!(conf.ipam.default_ipv4_ippool.as_deref(), Some(&["section".to_owned()][..]));
        assert_eq!(conf.ipam.kind.as_deref(), Some("spiderpool"));
        assert!(conf.clean_gateway());
        assert_eq!(conf.socket(), PathBuf::from(DEFAULT_SOCKET));
    }

    #[test]
    fn interface_keys_of_a_delegating_plugin_are_ignored() {
        let conf = NetConf::from_value(&json!({
            "cniVersion": "0.3.1", "name": "lan", "type": "macvlan", "mode": "bridge", "master": "eth0", "mtu": "auto",
            "ipam": {"type": "spiderpool"},
        }))
        .unwrap();
        assert_eq!((conf.mode, conf.master, conf.mtu), (Mode::Veth, None, None));
        let own = json!({
            "cniVersion": "1.0.0", "name": "lan", "type": "holdfast", "mode": "bridge", "ipam": {"type": "spiderpool"},
        });
        assert_eq!(NetConf::from_value(&own).unwrap_err().code, code::INVALID_CONFIG);
    }

    #[test]
    fn valid_attachments_are_parsed() {
        let conf = NetConf::from_value(&json!({
            "cniVersion": "1.1.0", "name": "lan", "type": "holdfast",
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
        }))
        .unwrap();
        let kept = Attachment { container_id: "a".into(), ifname: "eth0".into() };
        assert_eq!(conf.valid_attachments, Some(vec![kept]));
    }

    #[test]
    fn error_names_the_invalid_value() {
        for (bad, word) in [
            (json!([]), "object"),
            (json!({"cniVersion": 1}), "string"),
            (json!({"cniVersion": "1.0.0", "mode": "teleport"}), "teleport"),
            (json!({"cniVersion": "1.0.0", "mtu": -1}), "-1"),
            (json!({"cniVersion": "1.0.0", "ipam": {"default_ipv4_ippool": "a"}}), "sequence"),
        ] {
            let error = NetConf::from_value(&bad).unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG);
            assert!(error.msg.contains(word), "{}", error.msg);
        }
        let error = NetConf::from_value(&json!({"cniVersion": "0.2.0"})).unwrap().version().unwrap_err();
        assert_eq!(error.code, code::INCOMPATIBLE_VERSION);
        assert!(error.msg.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"));
        assert_eq!(NetConf::from_value(&json!({})).unwrap().version().unwrap_err().code, code::INCOMPATIBLE_VERSION);
    }
}
