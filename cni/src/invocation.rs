//! One call of the plugin, as it goes to the agent.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::{CniError, K8sArgs, NetConf};

/// What a runtime can ask for. VERSION is missing: the plugin answers it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Give the container its interface.
    Add,
    /// Take it away.
    Del,
    /// Is it still as ADD left it?
    Check,
    /// Would an ADD work now?
    Status,
    /// Remove everything that is not in a list of valid attachments.
    Gc,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc];

    /// `CNI_COMMAND`'s value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }

    /// The agent's route for it.
    pub const fn route(self) -> &'static str {
        match self {
            Self::Add => "/v1/add",
            Self::Del => "/v1/del",
            Self::Check => "/v1/check",
            Self::Status => "/v1/status",
            Self::Gc => "/v1/gc",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The part the plugin plays in this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plugin {
    /// The main plugin: makes the interface and programs it.
    Holdfast,
    /// The IPAM delegate: hands out addresses; another plugin has the interface.
    Spiderpool,
}

impl Plugin {
    /// The file name that the delegate is installed under.
    const DELEGATE: &'static str = "spiderpool";

    /// Which of the two the runtime means. The name the binary was called by decides; a configuration whose
    /// `ipam.type` is that name, while its `type` is another, makes a delegate of the main plugin as well.
    pub fn of(argv0: &str, conf: &NetConf) -> Self {
        let name = Path::new(argv0).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let delegated = conf.ipam.kind.as_deref() == Some(name) && conf.kind != name;
        if name == Self::DELEGATE || delegated { Self::Spiderpool } else { Self::Holdfast }
    }
}

/// One call of the plugin: the body of every request to the agent. The variables are as the runtime set them
/// (an empty one is an absent one); the agent parses what it uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// `CNI_CONTAINERID`; empty for STATUS and GC.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_NETNS`: a path. A runtime may leave it out at DEL, when the namespace is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// `CNI_ARGS` as it is; see [`Invocation::k8s_args`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// `CNI_PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Main plugin or delegate.
    pub plugin: Plugin,
    /// The configuration from stdin, whole; see [`Invocation::net_conf`].
    pub config: serde_json::Value,
}

impl Invocation {
    /// The configuration's typed view.
    pub fn net_conf(&self) -> Result<NetConf, CniError> {
        NetConf::from_value(&self.config)
    }

    /// What `CNI_ARGS` says about the pod.
    pub fn k8s_args(&self) -> Result<K8sArgs, CniError> {
        K8sArgs::parse(self.args.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conf(value: &serde_json::Value) -> NetConf {
        NetConf::from_value(value).unwrap()
    }

    #[test]
    fn the_name_it_was_called_by_decides() {
        let main = conf(&json!({"cniVersion": "1.0.0", "name": "n", "type": "holdfast"}));
        let macvlan =
            conf(&json!({"cniVersion": "1.0.0", "name": "n", "type": "macvlan", "ipam": {"type": "spiderpool"}}));
        let ours = conf(&json!({"cniVersion": "1.0.0", "name": "n", "type": "macvlan", "ipam": {"type": "holdfast"}}));
        assert_eq!(Plugin::of("/opt/cni/bin/holdfast", &main), Plugin::Holdfast);
        assert_eq!(Plugin::of("/opt/cni/bin/spiderpool", &macvlan), Plugin::Spiderpool);
        assert_eq!(Plugin::of("/opt/cni/bin/holdfast", &ours), Plugin::Spiderpool);
        assert_eq!(Plugin::of("", &main), Plugin::Holdfast);
    }
}
