//! holdfast's own pods.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use xtask::deploy::{self, NAMESPACE};
use xtask::progress::Look;

use crate::namespace::{is_ready, text};
use crate::world::World;

const PODS: &str = "/api/v1/namespaces/kube-system/pods";
const AGENTS: &str = "app.kubernetes.io/component=holdfast-agent";
/// How many lines of a log a failure shows.
const SHOWN: usize = 25;

/// The agent's pod on a node.
pub(crate) fn on(world: &World, node: &str) -> Result<Value> {
    let pods = world.api.list(PODS, AGENTS)?;
    let here = pods.into_iter().find(|pod| pod["spec"]["nodeName"] == node && is_ready(pod));
    here.with_context(|| format!("no agent is ready on {node}"))
}

/// The container that runs the agent on a node, and how often it was started again.
pub(crate) fn container(world: &World, node: &str) -> Result<(String, u64)> {
    let pod = on(world, node)?;
    let id = text(&pod, "/status/containerStatuses/0/containerID")?.trim_start_matches("containerd://").to_owned();
    Ok((id, pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()))
}

/// The containers of both nodes' agents: as long as they are the same, no agent has ended.
pub(crate) fn containers(world: &World) -> Result<Vec<(String, u64)>> {
    world.cluster.nodes()?.iter().map(|node| container(world, node)).collect()
}

/// Waits until a line of the log of the node's agent, not older than `since`, has all of `words`.
pub(crate) fn says(world: &World, node: &str, since: Instant, words: &[&str]) -> Result<Value> {
    world.wait(&format!("the agent on {node} to say {words:?}"), 10, || {
        Ok(said(world, node, since, words)?.map_or_else(|| Look::NotYet("it has not".into()), Look::Done))
    })
}

/// The last line of the log of the node's agent, not older than `since`, that has all of `words`.
pub(crate) fn said(world: &World, node: &str, since: Instant, words: &[&str]) -> Result<Option<Value>> {
    let agent = on(world, node)?;
    let agent = text(&agent, "/metadata/name")?;
    let seconds = format!("--since={}s", since.elapsed().as_secs() + 1);
    let log = world.cluster.run(&["-n", NAMESPACE, "logs", agent, &seconds])?;
    let line = log.lines().rfind(|line| words.iter().all(|word| line.contains(word)));
    line.map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).transpose()
}

/// Waits until the agent on a node runs in another container than `before`.
pub(crate) fn back(world: &World, node: &str, before: &str) -> Result<(String, u64)> {
    world.wait(&format!("the agent on {node} to be back"), 60, || {
        // No agent is ready for a moment.
        let now = container(world, node).ok().filter(|(now, _)| now != before);
        Ok(now.map_or_else(|| Look::NotYet("it is not".into()), Look::Done))
    })
}

/// A number among the metrics of the node's agent.
pub(crate) fn metric(world: &World, node: &str, name: &str) -> Result<f64> {
    let nodes = &world.lab().description().nodes;
    let netns = &nodes.iter().find(|it| it.name == node).with_context(|| format!("there is no node {node}"))?.netns;
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    let mut text = String::new();
    let read = || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect("127.0.0.1:5710")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut text)?;
        anyhow::Ok(())
    };
    std::thread::scope(|scope| scope.spawn(read).join())
        .map_err(|_| anyhow!("the reader of metrics panicked"))?
        .with_context(|| format!("reading the metrics of the agent on {node}"))?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {text}"))?;
    Ok(value.trim().parse()?)
}

/// Removes the agents from all nodes until what is returned is dropped.
pub(crate) fn remove(world: &'static World) -> Result<Away> {
    let away = Away { world };
    select(world, &json!({"holdfast.io/nowhere": "true"}))?;
    world.wait("the agents to be gone", 60, || {
        let left = world.api.list(PODS, AGENTS)?.len();
        Ok(if left == 0 { Look::Done(()) } else { Look::NotYet(format!("{left} are there")) })
    })?;
    Ok(away)
}

/// The agents are away.
pub(crate) struct Away {
    world: &'static World,
}

impl Drop for Away {
    fn drop(&mut self) {
        let back = select(self.world, &Value::Null)
            .and_then(|()| deploy::wait_ready(&self.world.cluster, &self.world.progress));
        if let Err(error) = back {
            eprintln!("the agents did not come back: {error:#}");
        }
    }
}

fn select(world: &World, selector: &Value) -> Result<()> {
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}}).to_string();
    world
        .cluster
        .run(&["-n", NAMESPACE, "patch", "daemonset", "holdfast-agent", "--type=merge", "-p", &patch])
        .map(drop)
}

/// Prints what holdfast's pods said about a namespace.
pub(crate) fn show_logs(world: &World, namespace: &str) {
    for component in ["holdfast-agent", "holdfast-controller"] {
        let selector = format!("app.kubernetes.io/component={component}");
        let log = world.cluster.run(&["-n", NAMESPACE, "logs", "-l", &selector, "--tail=-1", "--prefix"]);
        let log = log.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<_> = log.lines().filter(|line| line.contains(namespace)).collect();
        eprintln!("{component}:\n{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
    }
}
