//! One invocation of the plugin, as the agent receives it.

use serde::{Deserialize, Serialize};

use crate::{args::K8sArgs, error::CniError, netconf::NetConf, plugin::Plugin};

/// One invocation of the plugin: the body of every request to the agent. The `CNI_*` variables are unparsed, an empty
/// variable is absent, and the agent parses the ones it uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// `CNI_CONTAINERID`; empty for STATUS and GC.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`, a path. A runtime may omit it on DEL after the namespace is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// `CNI_ARGS`, unparsed; see [`Invocation::k8s_args`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// `CNI_PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The plugin that the runtime invoked.
    pub plugin: Plugin,
    /// The complete network configuration from stdin; see [`Invocation::net_conf`].
    pub config: serde_json::Value,
}

impl Invocation {
    /// Returns the typed network configuration; errors have code 7.
    pub fn net_conf(&self) -> Result<NetConf, CniError> {
        NetConf::from_value(&self.config)
    }

    /// Returns the pod's identity from `CNI_ARGS`; errors have code 4.
    pub fn k8s_args(&self) -> Result<K8sArgs, CniError> {
        K8sArgs::parse(self.args.as_deref().unwrap_or_default())
    }
}
