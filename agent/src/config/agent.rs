//! The agent's arguments.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::common::CommonArgs;

/// The agent's arguments.
#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonArgs,
    /// This node's name.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// The socket at which the plugin finds the agent. `ipamUnixSocketPath` in the ConfigMap goes before it.
    #[arg(long, env = "HOLDFAST_SOCKET", default_value = holdfast_cni::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The folder in bpffs that holds the guard's maps and links.
    #[arg(long, env = "HOLDFAST_BPFFS", default_value = "/sys/fs/bpf/holdfast")]
    pub bpffs: PathBuf,
    /// The plugin's binary in the agent's image. Empty: do not install it.
    #[arg(long, env = "HOLDFAST_PLUGIN", default_value = "/cni/holdfast", value_parser = path_or_none)]
    pub plugin: PathBuf,
    /// The runtime's folder of plugins.
    #[arg(long, env = "HOLDFAST_CNI_BIN", default_value = "/opt/cni/bin")]
    pub cni_bin: PathBuf,
    /// The runtime's folder of network configurations.
    #[arg(long, env = "HOLDFAST_CNI_CONF", default_value = "/etc/cni/net.d")]
    pub cni_conf: PathBuf,
    /// The file to write there. Empty: write none; another plugin, such as Multus, has the configuration.
    #[arg(long, env = "HOLDFAST_CNI_CONF_NAME", default_value = "10-holdfast.conflist")]
    pub cni_conf_name: String,
    /// The deadline of one request of the plugin, in seconds.
    #[arg(long, env = "HOLDFAST_REQUEST_SECONDS", default_value_t = 30)]
    pub request_seconds: u64,
    /// The address of the health endpoints.
    #[arg(long, env = "HOLDFAST_HEALTH", default_value = "127.0.0.1:5710")]
    pub health: SocketAddr,
}

/// A path that may be empty, which clap's own parser takes for a missing value.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a parser")]
fn path_or_none(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(text.into())
}
