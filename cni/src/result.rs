//! The result of ADD, as a CNI 1.1.0 object and in the older versions.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{plugin::Plugin, version::CniVersion};

/// The result of ADD. The agent always sends the newest version; [`AddResult::render`] converts it to the runtime's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// The interfaces created; empty from the IPAM plugin.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// The addresses assigned.
    #[serde(default)]
    pub ips: Vec<IpConfig>,
    /// The routes of the container.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The DNS configuration.
    #[serde(default)]
    pub dns: Dns,
}

/// An interface that ADD created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// The hardware address, `02:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the network namespace; absent for an interface of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An address that ADD assigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with the subnet's prefix length: `172.22.40.181/16`.
    pub address: IpNet,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The index into [`AddResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

/// A route of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The next hop; if absent, the destination is on-link or reached by the address's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name servers and search domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The addresses of the name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl AddResult {
    /// Returns the result in `version`. The IPAM plugin's result has no interfaces and no references to any
    /// (specification, "Delegated plugins (IPAM)").
    pub fn render(&self, version: CniVersion, plugin: Plugin) -> Value {
        let is_ipam = plugin == Plugin::Spiderpool;
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), json!(version.as_str()));
        if !is_ipam {
            let interfaces = self.interfaces.iter().map(|interface| interface.render(version));
            object.insert("interfaces".to_owned(), interfaces.collect());
        }
        object.insert("ips".to_owned(), self.ips.iter().map(|ip| ip.render(version, is_ipam)).collect());
        object.insert("routes".to_owned(), json!(self.routes));
        object.insert("dns".to_owned(), json!(self.dns));
        Value::Object(object)
    }
}

impl Interface {
    fn render(&self, version: CniVersion) -> Value {
        if version >= CniVersion::V1_1_0 {
            return json!(self);
        }
        json!(Self { mtu: None, ..self.clone() })
    }
}

impl IpConfig {
    fn render(&self, version: CniVersion, is_ipam: bool) -> Value {
        let mut value = json!(Self { interface: self.interface.filter(|_| !is_ipam), ..self.clone() });
        if version < CniVersion::V1_0_0 {
            value["version"] = json!(if self.address.addr().is_ipv4() { "4" } else { "6" });
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> AddResult {
        AddResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: Some("02:00:00:00:00:01".into()),
                mtu: Some(1500),
                sandbox: Some("/run/netns/a".into()),
            }],
            ips: vec![
                IpConfig {
                    address: "172.22.40.181/16".parse().unwrap(),
                    gateway: Some("172.22.0.1".parse().unwrap()),
                    interface: Some(0),
                },
                IpConfig { address: "fd00::1/64".parse().unwrap(), gateway: None, interface: Some(0) },
            ],
            routes: vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: None }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn versions_before_1_0_have_the_family_and_no_mtu() {
        for version in [CniVersion::V0_3_1, CniVersion::V0_4_0] {
            let value = result().render(version, Plugin::Holdfast);
            assert_eq!(value["cniVersion"], version.as_str());
            assert_eq!(value["ips"][0]["version"], "4");
            assert_eq!(value["ips"][1]["version"], "6");
            assert_eq!(value["interfaces"][0].get("mtu"), None);
        }
    }

    #[test]
    fn newest_version_is_the_wire_format() {
        let value = result().render(CniVersion::V1_1_0, Plugin::Holdfast);
        assert_eq!(value["interfaces"][0]["mtu"], 1500);
        assert_eq!(value["ips"][0], json!({"address": "172.22.40.181/16", "gateway": "172.22.0.1", "interface": 0}));
        assert_eq!(result().render(CniVersion::V1_0_0, Plugin::Holdfast)["interfaces"][0].get("mtu"), None);
    }

    #[test]
    fn ipam_result_has_no_interfaces() {
        for version in CniVersion::ALL {
            let value = result().render(version, Plugin::Spiderpool);
            assert_eq!(value.get("interfaces"), None);
            assert_eq!(value["ips"][0].get("interface"), None);
        }
    }
}
