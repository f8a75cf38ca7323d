//! The ConfigMap.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, ensure};
use holdfast_core::{collect::OnTimeout, guard_mode::GuardMode, pool::Family};
use serde::Deserialize;

/// The ConfigMap's `conf.yml`, with Spiderpool's keys and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    /// The plugin's socket.
    pub ipam_unix_socket_path: Option<PathBuf>,
    /// True: pods get IPv4 addresses.
    #[serde(rename = "enableIPv4")]
    pub enable_ipv4: bool,
    /// True: pods get IPv6 addresses.
    #[serde(rename = "enableIPv6")]
    pub enable_ipv6: bool,
    /// True: the pods of StatefulSets keep their addresses.
    pub enable_stateful_set: bool,
    /// The guard's mode for packets whose address is not their pod's: `enforce` drops them, `observe` only reports.
    pub guard_mode: GuardMode,
    /// The settings for the pods of StatefulSets.
    pub stateful_set: StatefulSetConf,
    /// Keys that holdfast does not know.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_yaml_ng::Value>,
}

/// `statefulSet` in the ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetConf {
    /// The fate of the addresses of a pod that terminates past its grace period: `unbind` or `release`.
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
    fn what_cannot_work_is_refused() {
        assert!(Conf::parse("enableIPv4: false\nenableIPv6: false").unwrap_err().to_string().contains("both false"));
        assert!(Conf::parse("enableIPv4: maybe").is_err());
        assert!(Conf::parse("statefulSet: {onTerminatingTimeout: keep}").is_err());
    }
}
