//! The two plugins that the binary contains.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::netconf::NetConf;

/// The plugin that the runtime invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plugin {
    /// The interface plugin: creates the container's interface and configures it.
    Holdfast,
    /// The IPAM plugin: allocates addresses for an interface plugin that delegates to it.
    Spiderpool,
}

impl Plugin {
    /// The file name that the IPAM plugin is installed under.
    const IPAM_NAME: &'static str = "spiderpool";

    /// Returns the plugin that `argv0` and the configuration select. The name `spiderpool` selects the IPAM plugin. So
    /// does any other name that is the configuration's `ipam.type` but not its `type`: another plugin then delegates to
    /// it.
    pub fn of(argv0: &str, conf: &NetConf) -> Self {
        let name = Path::new(argv0).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let delegated = conf.ipam.kind.as_deref() == Some(name) && conf.kind != name;
        if name == Self::IPAM_NAME || delegated { Self::Spiderpool } else { Self::Holdfast }
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
    fn argv0_and_the_ipam_type_select_the_plugin() {
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
