//! The controller's arguments, under the names and with the defaults of Spiderpool's garbage collection where there are
//! any.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use clap::{ArgAction, Args, Command, FromArgMatches};
use holdfast_controller::Settings;
use holdfast_core::{
    collect::{Cooldowns, Policy},
    election::LeaseTimings,
};

use super::{common::CommonArgs, conf::Conf};

/// The controller's arguments.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the environment")]
pub struct ControllerArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonArgs,
    /// Collect addresses at all.
    #[arg(long, env = "SPIDERPOOL_GC_IP_ENABLED", default_value_t = true, action = ArgAction::Set)]
    pub collect: bool,
    /// Take the addresses of pods that terminate past their grace period.
    #[arg(long, env = "SPIDERPOOL_GC_TERMINATING_POD_IP_ENABLED", default_value_t = true, action = ArgAction::Set)]
    pub terminating: bool,
    /// Take them also of pods of no StatefulSet on a node that is ready.
    #[arg(
        long,
        env = "SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub stateless_on_ready_node: bool,
    /// Take them also of pods of no StatefulSet on a node that is not ready.
    #[arg(
        long,
        env = "SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub stateless_on_not_ready_node: bool,
    /// Seconds to wait after a grace period, and after a node has gone.
    #[arg(long, env = "SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY", default_value_t = 5)]
    pub grace_delay_seconds: u64,
    /// Seconds between full scans.
    #[arg(long, env = "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION", default_value_t = 600)]
    pub full_scan_seconds: u64,
    /// Seconds that a released address rests before it is given to another pod.
    #[arg(long, env = "HOLDFAST_RELEASED_REST_SECONDS", default_value_t = 30)]
    pub released_rest_seconds: u64,
    /// Seconds that an address may be claimed without any endpoint listing it, while there is a pod of that name.
    #[arg(long, env = "HOLDFAST_UNLISTED_REST_SECONDS", default_value_t = 60)]
    pub unlisted_rest_seconds: u64,
    /// Seconds that it may where there is none.
    #[arg(long, env = "HOLDFAST_ORPHANED_REST_SECONDS", default_value_t = 5)]
    pub orphaned_rest_seconds: u64,
    /// The address of the health endpoints.
    #[arg(long, env = "HOLDFAST_HEALTH", default_value = "127.0.0.1:5720")]
    pub health: SocketAddr,
    /// This replica's name.
    #[arg(long, env = "SPIDERPOOL_POD_NAME", default_value = "holdfast-controller")]
    pub pod_name: String,
    /// The namespace of the lease that the replicas share.
    #[arg(long, env = "SPIDERPOOL_POD_NAMESPACE", default_value = "kube-system")]
    pub pod_namespace: String,
    /// Seconds for which the lease lasts: another replica takes over so long after the leader was last heard.
    #[arg(long, env = "SPIDERPOOL_GC_LEADER_DURATION", default_value_t = 6)]
    pub lease_seconds: u64,
    /// Seconds after its last renewal until a leader stops by itself. Less than the lease lasts.
    #[arg(long, env = "SPIDERPOOL_GC_LEADER_RENEW_DEADLINE", default_value_t = 4)]
    pub renew_deadline_seconds: u64,
    /// Seconds between two looks at the lease.
    #[arg(long, env = "SPIDERPOOL_GC_LEADER_RETRY_PERIOD", default_value_t = 2)]
    pub retry_seconds: u64,
}

impl ControllerArgs {
    /// The arguments as written after the role's name.
    pub fn parse(arguments: &[&str]) -> Result<Self, clap::Error> {
        let command = Self::augment_args(Command::new("controller")).no_binary_name(true);
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// Returns the controller's settings.
    pub fn settings(&self, conf: &Conf) -> anyhow::Result<Settings> {
        let seconds = Duration::from_secs;
        let lease_timings = LeaseTimings {
            duration: seconds(self.lease_seconds),
            deadline: seconds(self.renew_deadline_seconds),
            retry: seconds(self.retry_seconds),
        };
        let policy = Policy {
            terminating: self.terminating,
            stateless_on_ready_node: self.stateless_on_ready_node,
            stateless_on_not_ready_node: self.stateless_on_not_ready_node,
            delay: seconds(self.grace_delay_seconds),
            on_timeout: conf.stateful_set.on_terminating_timeout,
        };
        let cooldowns = Cooldowns {
            unlisted: seconds(self.unlisted_rest_seconds),
            orphaned: seconds(self.orphaned_rest_seconds),
            released: seconds(self.released_rest_seconds),
        };
        Ok(Settings {
            collect: self.collect,
            cooldowns,
            policy,
            stateful_set: conf.enable_stateful_set,
            full_scan: seconds(self.full_scan_seconds.max(1)),
            identity: self.identity(),
            namespace: self.pod_namespace.clone(),
            lease_timings: lease_timings.check()?,
        })
    }

    /// A container that starts again in the same pod is another candidate: what the one before was doing may still be
    /// on its way.
    fn identity(&self) -> String {
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{}_{}_{:x}", self.pod_name, std::process::id(), started.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> anyhow::Result<Settings> {
        ControllerArgs::parse(arguments).unwrap().settings(&Conf::default())
    }

    /// The environment of a Spiderpool installation's manifests has the same meaning here.
    #[test]
    fn the_environment_has_spiderpools_names() {
        let command = ControllerArgs::augment_args(Command::new("controller"));
        let named = |id: &str| {
            let argument = command.get_arguments().find(|argument| argument.get_id() == id).unwrap();
            argument.get_env().unwrap().to_str().unwrap().to_owned()
        };
        for (id, name, default) in [
            ("collect", "IP_ENABLED", "true"),
            ("terminating", "TERMINATING_POD_IP_ENABLED", "true"),
            ("stateless_on_ready_node", "STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED", "true"),
            ("stateless_on_not_ready_node", "STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED", "true"),
            ("grace_delay_seconds", "ADDITIONAL_GRACE_DELAY", "5"),
            ("full_scan_seconds", "DEFAULT_INTERVAL_DURATION", "600"),
            // Shorter than Spiderpool's: another replica takes over within seconds.
            ("lease_seconds", "LEADER_DURATION", "6"),
            ("renew_deadline_seconds", "LEADER_RENEW_DEADLINE", "4"),
            ("retry_seconds", "LEADER_RETRY_PERIOD", "2"),
        ] {
            assert_eq!(named(id), format!("SPIDERPOOL_GC_{name}"));
            let argument = command.get_arguments().find(|argument| argument.get_id() == id).unwrap();
            assert_eq!(argument.get_default_values(), [default], "{id}");
        }
        assert_eq!(named("pod_name"), "SPIDERPOOL_POD_NAME");
        assert_eq!(named("pod_namespace"), "SPIDERPOOL_POD_NAMESPACE");
    }

    #[test]
    fn defaults_are_spiderpools() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.policy, Policy::default());
        assert_eq!(settings.cooldowns, Cooldowns::default());
        assert!(settings.collect && settings.stateful_set);
        assert_eq!(settings.full_scan, Duration::from_secs(600));
    }

    #[test]
    fn switches_take_a_value_and_terms_are_checked() {
        let off = settings(&["--collect", "false", "--stateless-on-ready-node=false"]).unwrap();
        assert!(!off.collect && !off.policy.stateless_on_ready_node);
        assert!(settings(&["--lease-seconds", "4"]).unwrap_err().to_string().contains("renewal deadline"));
        assert_ne!(off.identity, settings(&[]).unwrap().identity);
    }
}
