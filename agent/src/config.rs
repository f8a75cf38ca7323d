//! The command line, the environment and the ConfigMap, checked before anything starts.

mod agent;
mod common;
mod conf;
mod controller;

use clap::{Parser, Subcommand};

pub use self::{
    agent::AgentArgs,
    common::CommonArgs,
    conf::{Conf, StatefulSetConf},
    controller::ControllerArgs,
};

/// Sticky IP addresses for Kubernetes StatefulSets.
#[derive(Debug, Parser)]
#[command(name = "holdfast-agent", version)]
pub struct Cli {
    /// The role.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_may_be_told_to_install_nothing() {
        let line = ["holdfast-agent", "agent", "--node", "n", "--plugin", "", "--cni-conf-name", ""];
        let Role::Agent(args) = Cli::try_parse_from(line).unwrap().role else { unreachable!("it says agent") };
        assert!(args.plugin.as_os_str().is_empty() && args.cni_conf_name.is_empty());
    }
}
