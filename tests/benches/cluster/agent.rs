//! holdfast's process on a node, from outside: what it logs, counts and uses.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde_json::Value;
use xtask::deploy::NAMESPACE;

use crate::{
    pod::{inside, process_of},
    world::World,
};

/// The agent's health address on its node, as the chart configures it.
const METRICS: &str = "127.0.0.1:5710";

/// The agent of a node.
pub(crate) struct Agent {
    pod: String,
    process: Pid,
    network: PathBuf,
}

/// The memory and processor time of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vitals {
    /// Resident memory, in kB.
    pub(crate) resident: u64,
    /// Time on processors since it began.
    pub(crate) busy: Duration,
}

/// The agent's metrics, as text.
pub(crate) struct Metrics(String);

impl Agent {
    pub(crate) fn on(world: &World, node: &str) -> Result<Self> {
        let pods = Api::<Pod>::namespaced(world.client.clone(), NAMESPACE);
        let labels = ListParams::default().labels("app.kubernetes.io/component=holdfast-agent");
        let pods = world.block_on(pods.list(&labels))?;
        let here = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
        let pod = pods.into_iter().find(here).with_context(|| format!("no agent is on {node}"))?;
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let container = statuses.and_then(|statuses| statuses.first()?.container_id.as_deref());
        let container = container.context("the agent does not run")?.trim_start_matches("containerd://");
        Ok(Self { pod: pod.name_any(), process: process_of(container)?, network: world.node(node)?.netns.clone() })
    }

    /// Returns the lines of its log that are not older than `within`, rounded up to seconds.
    pub(crate) fn said(&self, world: &World, within: Duration) -> Result<Vec<Value>> {
        let since = format!("--since={}s", within.as_secs() + 1);
        let log = world.cluster.run(&["-n", NAMESPACE, "logs", &self.pod, &since])?;
        log.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
    }

    pub(crate) fn vitals(&self) -> Result<Vitals> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).context("the agent has ended")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok()).context("VmRSS")?;
        // proc(5): behind the name in parentheses, user and system time are the 12th and the 13th.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process))?;
        let fields = stat.rsplit_once(')').context("a name in parentheses")?.1.split_whitespace();
        let ticks = fields.skip(11).take(2).map(str::parse::<u32>).sum::<Result<u32, _>>()?;
        let a_second = u32::try_from(sysconf(SysconfVar::CLK_TCK)?.context("the length of a tick")?)?;
        Ok(Vitals { resident, busy: Duration::from_secs(ticks.into()) / a_second })
    }

    pub(crate) fn metrics(&self) -> Result<Metrics> {
        inside(&self.network, metrics)
    }
}

/// Asks the agent of the node that the calling thread is on.
pub(crate) fn metrics() -> Result<Metrics> {
    let mut stream = TcpStream::connect(METRICS).context("the agent does not answer about its metrics")?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(Metrics(text))
}

impl Metrics {
    /// Returns the value of the line that begins with `line`. A metric that was never counted is 0.
    pub(crate) fn value(&self, line: &str) -> Result<f64> {
        let value = self.0.lines().find_map(|there| there.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| value.trim().parse().with_context(|| format!("{line} {value}")))
    }
}
