//! Calling the plugin on its node, as a container runtime does.

use std::{
    fs::{self, File},
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use xtask::lab::Node;

use super::sandbox::Network;
use crate::{
    agent::metrics,
    workload::{Assigned, NAMESPACE},
};

const PROGRAM: &str = "/opt/cni/bin/holdfast";
const CONFIGURATION: &str = "/etc/cni/net.d/10-holdfast.conflist";

/// Takes the calling thread, and what it starts, into the node's network and mounts.
pub(super) fn enter(node: &Node) -> Result<()> {
    let leader = node.leader_pid().with_context(|| format!("{} is off", node.name()))?;
    let [network, mounts] = ["net", "mnt"].map(|kind| File::open(format!("/proc/{leader}/ns/{kind}")));
    let (network, mounts) = (network?, mounts?);
    // A thread that shares its root with others may not change its mounts.
    unshare(CloneFlags::CLONE_FS)?;
    setns(network, CloneFlags::CLONE_NEWNET)?;
    setns(mounts, CloneFlags::CLONE_NEWNS).with_context(|| format!("entering {}", node.name()))
}

/// The plugin as the agent has installed it.
pub(super) struct Plugin {
    configuration: String,
}

/// One call of it.
pub(super) struct Call {
    /// From before the plugin is started until after it has ended.
    pub(super) took: Duration,
    /// From the request's arrival at the agent until it is answered.
    pub(super) agent: Duration,
}

impl Plugin {
    /// Returns the plugin with the configuration that libcni derives from the installed list for its first plugin.
    pub(super) fn installed() -> Result<Self> {
        let list: Value = serde_json::from_slice(&fs::read(CONFIGURATION).context(CONFIGURATION)?)?;
        let mut configuration = list["plugins"][0].clone();
        configuration["name"] = list["name"].clone();
        configuration["cniVersion"] = list["cniVersion"].clone();
        Ok(Self { configuration: configuration.to_string() })
    }

    pub(super) fn call(&self, verb: &str, pod: &Assigned, container: &str, network: &Network) -> Result<Call> {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={}",
            pod.pod, pod.uid
        );
        let environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", &network.path()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &arguments),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        // No other process calls a plugin on this node, so the agent's counters in between are of this call alone.
        let spent = || metrics()?.value(&format!(r#"holdfast_cni_seconds_sum{{verb="{verb}"}}"#));
        let before = spent()?;
        let took = run(&environment, &self.configuration).with_context(|| format!("{verb} of {}", pod.pod))?;
        Ok(Call { took, agent: Duration::from_secs_f64((spent()? - before).max(0.0)) })
    }
}

/// Asks the plugin for its versions, which it answers alone.
pub(super) fn version() -> Result<Duration> {
    run(&[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.0.0"}).to_string())
}

/// Starts the plugin and waits for its end.
fn run(environment: &[(&str, &str)], input: &str) -> Result<Duration> {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().context(PROGRAM)?;
    child.stdin.take().context("a pipe was asked for")?.write_all(input.as_bytes())?;
    let ended = child.wait_with_output()?;
    let took = begun.elapsed();
    ensure!(ended.status.success(), "the plugin said {}", String::from_utf8_lossy(&ended.stdout));
    Ok(took)
}
