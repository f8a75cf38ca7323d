//! The command line, the environment and the ConfigMap, checked before anything starts.

mod controller;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use holdfast_core::{collect::OnTimeout, guard_mode::GuardMode, pool::Family};
use serde::Deserialize;

pub use controller::ControllerArgs;

/// Sticky IP addresses for Kubernetes StatefulSets.
#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version)]
pub struct Cli {
    /// What to be.
    #[command(subcommand)]
    pub role: Role,
}

/// The roles of the binary.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// On each node: serves the CNI plugin, programs interfaces, guards addresses.
    Agent(AgentArgs),
    /// Once in the cluster: collects what leaked and writes the pools' status.
    Controller(ControllerArgs),
}

/// What both roles take.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// The key `conf.yml` of the ConfigMap `spiderpool-conf`, as a file.
    #[arg(long, env = "HOLDFAST_CONF", default_value = "/etc/holdfast/conf.yml")]
    pub conf: PathBuf,
    /// What to log, as a tracing filter.
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info")]
    pub log: String,
    /// Where metrics can be scraped from outside, for example `0.0.0.0:5711`. They stand at the health address too.
    #[arg(long, env = "HOLDFAST_METRICS")]
    pub metrics: Option<SocketAddr>,
}

/// The agent's arguments.
#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonArgs,
    /// This node's name.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// Where the plugin finds the agent. `ipamUnixSocketPath` in the ConfigMap goes before it.
    #[arg(long, env = "HOLDFAST_SOCKET", default_value = holdfast_cni::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The folder in bpffs that holds the guard's maps and links.
    #[arg(long, env = "HOLDFAST_BPFFS", default_value = "/sys/fs/bpf/holdfast")]
    pub bpffs: PathBuf,
    /// The plugin's binary in the agent's image. Empty: do not install it.
    #[arg(long, env = "HOLDFAST_PLUGIN", default_value = "/cni/holdfast", value_parser = path_or_none)]
    pub plugin: PathBuf,
    /// Where the runtime looks for plugins.
    #[arg(long, env = "HOLDFAST_CNI_BIN", default_value = "/opt/cni/bin")]
    pub cni_bin: PathBuf,
    /// Where the runtime looks for network configurations.
    #[arg(long, env = "HOLDFAST_CNI_CONF", default_value = "/etc/cni/net.d")]
    pub cni_conf: PathBuf,
    /// The file to write there. Empty: write none; another plugin, such as Multus, has the configuration.
    #[arg(long, env = "HOLDFAST_CNI_CONF_NAME", default_value = "10-holdfast.conflist")]
    pub cni_conf_name: String,
    /// How long one request of the plugin may take, in seconds.
    #[arg(long, env = "HOLDFAST_REQUEST_SECONDS", default_value_t = 30)]
    pub request_seconds: u64,
    /// Where the health endpoints listen.
    #[arg(long, env = "HOLDFAST_HEALTH", default_value = "127.0.0.1:5710")]
    pub health: SocketAddr,
}

/// A path that may be empty, which clap's own parser takes for a missing value.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a parser")]
fn path_or_none(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(text.into())
}

/// The ConfigMap's `conf.yml`, with Spiderpool's keys and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    /// The plugin's socket.
    pub ipam_unix_socket_path: Option<PathBuf>,
    /// Whether pods get IPv4 addresses.
    #[serde(rename = "enableIPv4")]
    pub enable_ipv4: bool,
    /// Whether pods get IPv6 addresses.
    #[serde(rename = "enableIPv6")]
    pub enable_ipv6: bool,
    /// Whether the pods of StatefulSets keep their addresses.
    pub enable_stateful_set: bool,
    /// What happens to packets whose address is not their pod's: `enforce` drops them, `observe` only reports.
    pub guard_mode: GuardMode,
    /// What holds for the pods of StatefulSets.
    pub stateful_set: StatefulSetConf,
    /// Keys that holdfast does not know.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_yaml_ng::Value>,
}

/// `statefulSet` in the ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetConf {
    /// What becomes of the addresses of a pod that terminates past its grace period: `unbind` or `release`.
    pub on_terminating_timeout: OnTimeout,
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            ipam_unix_socket_path: None,
            enable_ipv4: true,
            enable_ipv6: true,
            enable_stateful_set: true,
            guard_mode: GuardMode::Enforce,
            stateful_set: StatefulSetConf::default(),
            unknown: BTreeMap::new(),
        }
    }
}

impl Conf {
    /// Reads the file; one that does not exist means the defaults.
    pub fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("configuration file {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read configuration file {}", path.display())),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let conf: Option<Self> = serde_yaml_ng::from_str(text)?;
        let conf = conf.unwrap_or_default();
        ensure!(
            conf.enable_ipv4 || conf.enable_ipv6,
            "enableIPv4 and enableIPv6 are both false: pods need one of them"
        );
        Ok(conf)
    }

    /// Names the keys that have no effect.
    pub fn log_unknown(&self) {
        if !self.unknown.is_empty() {
            let keys: Vec<_> = self.unknown.keys().map(String::as_str).collect();
            tracing::info!(keys = keys.join(", "), "the configuration has keys that have no effect here");
        }
    }

    /// The families that pods get.
    pub fn families(&self) -> Vec<Family> {
        let enabled = |family: &Family| match family {
            Family::V4 => self.enable_ipv4,
            Family::V6 => self.enable_ipv6,
        };
        Family::ALL.into_iter().filter(enabled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiderpools_keys_are_read_and_others_accepted() {
        let conf =
            Conf::parse("ipamUnixSocketPath: /a.sock\nenableIPv6: false\nclusterSubnetDefaultFlexibleIPNumber: 1\n")
                .unwrap();
        assert_eq!(conf.ipam_unix_socket_path, Some("/a.sock".into()));
        assert_eq!(conf.families(), [Family::V4]);
        assert_eq!(conf.unknown.len(), 1);
        assert_eq!(Conf::parse("").unwrap(), Conf::default());
        let release = Conf::parse("statefulSet: {onTerminatingTimeout: release}").unwrap();
        assert_eq!(release.stateful_set.on_terminating_timeout, OnTimeout::Release);
    }

    #[test]
    fn an_agent_may_be_told_to_install_nothing() {
        let line = ["holdfast-agent", "agent", "--node", "n", "--plugin", "", "--cni-conf-name", ""];
        let Role::Agent(args) = Cli::try_parse_from(line).unwrap().role else { unreachable!("it says agent") };
        assert!(args.plugin.as_os_str().is_empty() && args.cni_conf_name.is_empty());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(Conf::parse("enableIPv4: false\nenableIPv6: false").unwrap_err().to_string().contains("both false"));
        assert!(Conf::parse("enableIPv4: maybe").is_err());
        assert!(Conf::parse("statefulSet: {onTerminatingTimeout: keep}").is_err());
    }
}
