//! The typed view of a network configuration. Keys that are not named here are accepted and left alone.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{CniError, CniVersion, code};

/// Where the agent listens, unless `ipam_unix_socket_path` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/holdfast/agent.sock";

/// A network configuration, of the main plugin or of the plugin that delegates to us.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// `cniVersion`, parsed by [`NetConf::version`].
    #[serde(default)]
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// `type`: the main plugin's name.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// How the main plugin makes the interface.
    #[serde(default)]
    pub mode: Mode,
    /// The interface's MTU; absent or 0: the uplink's.
    #[serde(default, deserialize_with = "zero_is_absent")]
    pub mtu: Option<u32>,
    /// The node's uplink; absent: the interface in the pool's subnet, else the default route's.
    #[serde(default, deserialize_with = "empty_is_absent")]
    pub master: Option<String>,
    /// The `ipam` section.
    #[serde(default)]
    pub ipam: Ipam,
    /// Result of the plugin before in the list (ADD), or of the last ADD (CHECK, DEL).
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// GC's list of what is to stay. Required by the specification; absent here is told apart from empty.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The same keys at top level, for a main plugin's configuration without an `ipam` section.
    #[serde(flatten)]
    top: Ipam,
}

/// The keys of the `ipam` section, which keep Spiderpool's names.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Ipam {
    /// The delegate's name.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Pools for IPv4, tried in this order.
    #[serde(default)]
    pub default_ipv4_ippool: Option<Vec<String>>,
    /// Pools for IPv6.
    #[serde(default)]
    pub default_ipv6_ippool: Option<Vec<String>>,
    /// No default route for the container.
    #[serde(default)]
    pub clean_gateway: Option<bool>,
    /// Accepted for old configurations; the agent has its own log.
    #[serde(default)]
    pub log_level: Option<String>,
    /// Accepted for old configurations.
    #[serde(default)]
    pub log_file_path: Option<String>,
    /// The agent's socket.
    #[serde(default)]
    pub ipam_unix_socket_path: Option<PathBuf>,
}

/// How the main plugin makes the interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A veth pair; the node routes between it and the LAN and answers there for the pod.
    #[default]
    Veth,
}

/// An attachment that GC must leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its interface.
    pub ifname: String,
}

impl NetConf {
    /// Reads the configuration; the error (code 7) names what is wrong with it.
    pub fn from_value(value: &Value) -> Result<Self, CniError> {
        let Some(object) = value.as_object() else {
            let msg = "the network configuration is not a JSON object";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        let mut own = object.clone();
        if is_of_another_plugin(value) {
            own.retain(|key, _| !INTERFACE_KEYS.contains(&key.as_str()));
        }
        let mut conf = Self::deserialize(Value::Object(own)).map_err(|error| {
            CniError::new(code::INVALID_CONFIG, format!("the network configuration cannot be used: {error}"))
        })?;
        conf.ipam = conf.ipam.or(std::mem::take(&mut conf.top));
        Ok(conf)
    }

    /// The CNI version that the result is to have.
    pub fn version(&self) -> Result<CniVersion, CniError> {
        if self.cni_version.is_empty() {
            let msg = format!("the network configuration has no cniVersion; holdfast speaks {}", CniVersion::list());
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
        }
        self.cni_version.parse()
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.ipam.ipam_unix_socket_path.clone().unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Whether the container goes without a default route.
    pub fn clean_gateway(&self) -> bool {
        self.ipam.clean_gateway.unwrap_or(false)
    }
}

/// Keys about the interface. In the configuration of a plugin that delegates to us they mean what that plugin says:
/// macvlan's `mode` is `bridge`.
const INTERFACE_KEYS: [&str; 3] = ["master", "mode", "mtu"];

/// Whether the configuration's main plugin is another, which delegates.
fn is_of_another_plugin(value: &Value) -> bool {
    let delegates = value["ipam"]["type"].is_string();
    delegates && value["type"].as_str().is_some_and(|kind| !kind.is_empty() && kind != "holdfast")
}

impl Ipam {
    /// This section, filled up from the keys at top level. `type` there is another thing.
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
    fn a_main_plugins_configuration() {
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
    fn the_ipam_section_wins_over_the_top() {
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
    fn what_another_plugin_says_of_its_interface_is_left_alone() {
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
    fn the_list_for_gc() {
        let conf = NetConf::from_value(&json!({
            "cniVersion": "1.1.0", "name": "lan", "type": "holdfast",
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
        }))
        .unwrap();
        let kept = Attachment { container_id: "a".into(), ifname: "eth0".into() };
        assert_eq!(conf.valid_attachments, Some(vec![kept]));
    }

    #[test]
    fn what_is_wrong_is_named() {
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
