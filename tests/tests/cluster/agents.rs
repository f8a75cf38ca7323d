//! holdfast's own pods.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use xtask::deploy::NAMESPACE;
use xtask::progress::Poll;

use crate::namespace::{LIMIT, text};
use crate::sandbox;
use crate::world::World;

const PODS: &str = "/api/v1/namespaces/kube-system/pods";
const AGENTS: &str = "app.kubernetes.io/component=holdfast-agent";
/// Health checks and metrics, on a node's loopback.
const HTTP: &str = "127.0.0.1:5710";
/// Longest time of the agent's answer over HTTP.
const HTTP_WITHIN: Duration = Duration::from_secs(5);
/// Lines of a log that a failure shows.
const SHOWN: usize = 25;

/// Returns the agent's pod on a node. An error unless there is one pod, which is not being deleted.
///
/// The pod need not be Ready: that says what a kubelet found out some seconds ago, and a kubelet that starts anew says
/// "not Ready" until it has probed. [`serves`] asks the agent.
pub(crate) fn on(world: &World, node: &str) -> Result<Value> {
    let mut pods = world.api.list(PODS, AGENTS)?;
    pods.retain(|pod| pod["spec"]["nodeName"] == node);
    match pods.pop() {
        Some(pod) if pods.is_empty() && pod["metadata"]["deletionTimestamp"].is_null() => Ok(pod),
        Some(_) => bail!("the agent on {node} is being replaced"),
        None => bail!("there is no agent on {node}"),
    }
}

/// Returns the container that runs the agent on a node, and how often it was started again.
pub(crate) fn container(world: &World, node: &str) -> Result<(String, u64)> {
    let pod = on(world, node)?;
    let status = &pod["status"]["containerStatuses"][0];
    ensure!(status["state"]["running"].is_object(), "the agent on {node} does not run: {status}");
    let id = text(status, "/containerID")?.trim_start_matches("containerd://").to_owned();
    Ok((id, status["restartCount"].as_u64().unwrap_or_default()))
}

/// Returns the same as [`container`]. An error unless the container's process is alive and the agent says that it can do
/// its work.
pub(crate) fn serves(world: &World, node: &str) -> Result<(String, u64)> {
    let container = container(world, node)?;
    sandbox::process_of(&container.0)?;
    let answer = get(world, node, "/v1/runtime/readiness")?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "the agent on {node} is not ready: {answer}");
    Ok(container)
}

/// Returns the containers of both nodes' agents: as long as they are the same, no agent has ended.
pub(crate) fn containers(world: &World) -> Result<Vec<(String, u64)>> {
    world.cluster.nodes()?.iter().map(|node| container(world, node)).collect()
}

/// Waits until a line of the log of the node's agent, not older than `since`, has all of `words`.
pub(crate) fn wait_for_log(world: &World, node: &str, since: Instant, words: &[&str]) -> Result<Value> {
    world.wait(&format!("a log line of the agent on {node} with {words:?}"), 10, || {
        Ok(last_log(world, node, since, words)?.map_or_else(|| Poll::Pending("there is none".into()), Poll::Ready))
    })
}

/// Returns the last line of the log of the node's agent, not older than `since`, that has all of `words`.
pub(crate) fn last_log(world: &World, node: &str, since: Instant, words: &[&str]) -> Result<Option<Value>> {
    let agent = on(world, node)?;
    let agent = text(&agent, "/metadata/name")?;
    let seconds = format!("--since={}s", since.elapsed().as_secs() + 1);
    let log = world.cluster.run(&["-n", NAMESPACE, "logs", agent, &seconds])?;
    let line = log.lines().rfind(|line| words.iter().all(|word| line.contains(word)));
    line.map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).transpose()
}

/// Waits until the agent on a node serves, in another container than `before`.
pub(crate) fn back(world: &World, node: &str, before: &str) -> Result<(String, u64)> {
    world.wait(&format!("the agent on {node} to be back"), 60, || {
        Ok(match serves(world, node) {
            Ok(now) if now.0 != before => Poll::Ready(now),
            Ok(_) => Poll::Pending("its container is the same".into()),
            Err(error) => Poll::Pending(format!("{error:#}")),
        })
    })
}

/// Returns a number among the metrics of the node's agent.
pub(crate) fn metric(world: &World, node: &str, name: &str) -> Result<f64> {
    let text = get(world, node, "/metrics")?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {text}"))?;
    Ok(value.trim().parse()?)
}

/// Returns what the agent on a node answers over HTTP, head and body.
fn get(world: &World, node: &str, path: &str) -> Result<String> {
    let nodes = &world.lab().description().nodes;
    let netns = &nodes.iter().find(|it| it.name == node).with_context(|| format!("there is no node {node}"))?.netns;
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    let read = || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect(HTTP)?;
        stream.set_read_timeout(Some(HTTP_WITHIN))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::Ok(answer)
    };
    let answer = std::thread::scope(|scope| scope.spawn(read).join());
    answer
        .map_err(|_| anyhow!("the reader panicked"))?
        .with_context(|| format!("reading {path} of the agent on {node}"))
}

/// Removes the agents from all nodes until [`Away::back`], or until what is returned is dropped.
pub(crate) fn remove(world: &'static World) -> Result<Away> {
    let away = Away { world, back: false };
    select(world, &json!({"holdfast.io/nowhere": "true"}))?;
    world.wait("the agents to be gone", 60, || {
        let left = world.api.list(PODS, AGENTS)?.len();
        Ok(if left == 0 { Poll::Ready(()) } else { Poll::Pending(format!("{left} are there")) })
    })?;
    Ok(away)
}

/// The agents are away.
pub(crate) struct Away {
    world: &'static World,
    back: bool,
}

impl Away {
    /// Brings the agents back; waits until they serve.
    pub(crate) fn back(mut self) -> Result<()> {
        self.back = true;
        self.restore()
    }

    fn restore(&self) -> Result<()> {
        select(self.world, &Value::Null)?;
        let nodes = self.world.cluster.nodes()?;
        self.world.wait("the agents to be back", LIMIT, || {
            let missing = nodes.iter().find_map(|node| serves(self.world, node).err());
            Ok(missing.map_or(Poll::Ready(()), |error| Poll::Pending(format!("{error:#}"))))
        })
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if self.back {
            return;
        }
        if let Err(error) = self.restore() {
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

/// Prints the log lines of holdfast's pods about a namespace.
pub(crate) fn show_logs(world: &World, namespace: &str) {
    for component in ["holdfast-agent", "holdfast-controller"] {
        let selector = format!("app.kubernetes.io/component={component}");
        let log = world.cluster.run(&["-n", NAMESPACE, "logs", "-l", &selector, "--tail=-1", "--prefix"]);
        let log = log.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<_> = log.lines().filter(|line| line.contains(namespace)).collect();
        eprintln!("{component}:\n{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
    }
}
