//! A container runtime's work done by hand: sandboxes and calls of plugins.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use xtask::lab::Node;
use xtask::progress::output;

use crate::namespace::text;
use crate::world::World;

/// Returns the first process of a container, found by the container's ID in the names of its cgroups. Nodes share the PIDs of
/// the machine.
pub(crate) fn process_of(container: &str) -> Result<Pid> {
    ensure!(container.len() >= 32, "{container:?} is too short to identify a container");
    let mut pids: Vec<i32> = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go while the folder is read.
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if cgroups.contains(container) {
            pids.push(pid);
        }
    }
    pids.into_iter().min().map(Pid::from_raw).with_context(|| format!("container {container} has no process"))
}

/// Kills a container's first process with SIGKILL.
pub(crate) fn kill_container(container: &str) -> Result<()> {
    kill(process_of(container)?, Signal::SIGKILL).with_context(|| format!("killing container {container}"))
}

/// A sandbox that a test made for a pod, with a network namespace on the pod's node. It goes when it is dropped.
pub(crate) struct Sandbox {
    node: Node,
    /// Its container ID.
    pub(crate) container: String,
    netns: String,
    arguments: String,
}

/// A plugin's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// True if it ended with 0.
    pub(crate) ok: bool,
    /// Its standard output; null for nothing.
    pub(crate) stdout: Value,
}

impl Sandbox {
    /// A sandbox for `pod`, empty: the plugin has not been called yet.
    pub(crate) fn new(world: &World, pod: &Value, container: &str) -> Result<Self> {
        let sandbox = Self::named(world, pod, container)?;
        output(&mut sandbox.node.exec(&["ip", "netns", "add", &sandbox.netns]))?;
        Ok(sandbox)
    }

    /// A sandbox whose network namespace is not there.
    pub(crate) fn named(world: &World, pod: &Value, container: &str) -> Result<Self> {
        let (namespace, name) = (text(pod, "/metadata/namespace")?, text(pod, "/metadata/name")?);
        let uid = text(pod, "/metadata/uid")?;
        Ok(Self {
            node: world.lab().node(text(pod, "/spec/nodeName")?)?,
            container: container.to_owned(),
            netns: format!("{namespace}-{container}").chars().take(64).collect(),
            arguments: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
            ),
        })
    }

    /// Calls holdfast as the main plugin.
    pub(crate) fn call(&self, verb: &str, conf: &Value) -> Result<Answer> {
        self.call_plugin("holdfast", verb, conf.to_string().as_bytes())
    }

    /// Calls a plugin as libcni does.
    pub(crate) fn call_plugin(&self, plugin: &str, verb: &str, input: &[u8]) -> Result<Answer> {
        let environment = [
            format!("CNI_COMMAND={verb}"),
            format!("CNI_CONTAINERID={}", self.container),
            format!("CNI_NETNS=/var/run/netns/{}", self.netns),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_ARGS={}", self.arguments),
        ];
        exec_plugin(&self.node, plugin, &environment, input)
    }

    /// Returns true if a host on the LAN answers a ping from this address.
    pub(crate) fn gets_through(&self, from: &str) -> Result<bool> {
        let lan = if from.contains(':') { "fd00:22::100" } else { "172.22.0.100" };
        let net = format!("--net=/run/netns/{}", self.netns);
        let ping = ["nsenter", &net, "--", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", from, lan];
        Ok(self.node.exec(&ping).output()?.status.success())
    }

    /// Returns the hardware address of its interface.
    pub(crate) fn mac(&self) -> Result<String> {
        // Not from /sys, which shows the node's interfaces.
        hardware_address(&self.run(&["ip", "-o", "link", "show", "eth0"])?)
    }

    /// Runs a command in its network namespace; returns its output.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        let net = format!("--net=/run/netns/{}", self.netns);
        output(&mut self.node.exec(&[&["nsenter", &net, "--"], words].concat()))
    }
}

/// Calls holdfast's STATUS on a node, which asks whether an ADD would work.
pub(crate) fn status(node: &Node) -> Result<Answer> {
    exec_plugin(node, "holdfast", &["CNI_COMMAND=STATUS".to_owned()], conf("1.1.0").to_string().as_bytes())
}

fn exec_plugin(node: &Node, plugin: &str, environment: &[String], input: &[u8]) -> Result<Answer> {
    let mut words = vec!["env".to_owned(), "CNI_PATH=/opt/cni/bin".to_owned()];
    words.extend_from_slice(environment);
    words.push(format!("/opt/cni/bin/{plugin}"));
    let mut command = node.exec(&words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // A plugin may refuse before it has read everything.
    drop(child.stdin.take().context("a pipe was asked for")?.write_all(input));
    let ended = child.wait_with_output()?;
    let stdout = if ended.stdout.trim_ascii().is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&ended.stdout)
            .with_context(|| format!("{plugin} printed {}", String::from_utf8_lossy(&ended.stdout)))?
    };
    Ok(Answer { ok: ended.status.success(), stdout })
}

/// Returns the hardware address in a line of `ip -o link`.
pub(crate) fn hardware_address(shown: &str) -> Result<String> {
    let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    mac.map(str::to_owned).with_context(|| format!("no hardware address in {shown:?}"))
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // It may never have been made.
        drop(self.node.exec(&["ip", "netns", "del", &self.netns]).output());
    }
}

impl Answer {
    /// Returns the plugin's output. An error if it failed.
    pub(crate) fn result(self) -> Result<Value> {
        if self.ok { Ok(self.stdout) } else { Err(anyhow!("the plugin printed {}", self.stdout)) }
    }

    /// Returns the message of an error. An error unless the plugin failed with this code.
    pub(crate) fn error(&self, code: u32) -> Result<&str> {
        ensure!(!self.ok && self.stdout["code"] == code, "this should be error {code}: {self:?}");
        text(&self.stdout, "/msg")
    }
}

/// The network configuration of holdfast as the main plugin.
pub(crate) fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "holdfast", "type": "holdfast"})
}
