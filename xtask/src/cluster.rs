//! A Kubernetes to work on: the laboratory, a kind cluster, or whatever a kubeconfig leads to.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::Lab;
use crate::progress::{Poll, Progress, output};

/// A cluster that answers.
pub enum Cluster {
    /// The laboratory.
    Lab(Lab),
    /// A kind cluster, by name.
    Kind(String),
    /// Another cluster, by its kubeconfig.
    Other(PathBuf),
}

impl Cluster {
    /// Returns a kubectl command.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        match self {
            Self::Lab(lab) => lab.kubectl(arguments),
            Self::Kind(name) => {
                let mut command = Command::new("kubectl");
                command.arg("--context").arg(format!("kind-{name}")).args(arguments);
                command
            }
            Self::Other(kubeconfig) => {
                let mut command = Command::new("kubectl");
                command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
                command
            }
        }
    }

    /// Runs kubectl and returns what it prints.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.kubectl(arguments))
    }

    /// Returns an object as JSON; none if it does not exist.
    pub fn get(&self, arguments: &[&str]) -> Result<Option<Value>> {
        let text = self.run(&[&["get", "-o", "json", "--ignore-not-found"], arguments].concat())?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text).context("kubectl's JSON")?)) }
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let mut command = self.kubectl(&["apply", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("kubectl's standard input")?;
        std::io::Write::write_all(&mut input, manifests.as_bytes())?;
        drop(input);
        let result = child.wait_with_output()?;
        if !result.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&result.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    /// Waits until `found` makes something of an object.
    pub fn wait_for<T>(
        &self,
        progress: &Progress,
        what: &str,
        object: &[&str],
        limit: Duration,
        found: impl Fn(Option<&Value>) -> Result<T, String>,
    ) -> Result<T> {
        progress.wait(what, limit, || {
            let object = self.get(object)?;
            Ok(match found(object.as_ref()) {
                Ok(done) => Poll::Ready(done),
                Err(reason) => Poll::Pending(reason),
            })
        })
    }

    /// Returns the names of the nodes.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let list = self.get(&["nodes"])?.context("the cluster has no nodes")?;
        let names = list["items"].as_array().into_iter().flatten();
        Ok(names.filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// Returns the command that runs a shell script on a node, as root in the node's own namespaces. Outside the
    /// laboratory the command goes through the helper pod of that node.
    pub fn on_node(&self, node: &str, script: &str) -> Result<Command> {
        Ok(match self {
            Self::Lab(lab) => lab.node(node)?.exec(&["sh", "-c", script]),
            Self::Kind(_) => {
                let mut command = Command::new("docker");
                command.args(["exec", node, "sh", "-c", script]);
                command
            }
            Self::Other(_) => {
                let pod = format!("pod/holdfast-shell-{node}");
                let enter = ["--", "nsenter", "-t", "1", "-m", "-n", "-p", "--", "sh", "-c", script];
                self.kubectl(&[&["exec", "-n", "kube-system", &pod], &enter[..]].concat())
            }
        })
    }

    /// Makes [`Self::on_node`] work.
    pub fn prepare_shells(&self, progress: &Progress) -> Result<()> {
        let Self::Other(_) = self else { return Ok(()) };
        for node in self.nodes()? {
            let name = format!("holdfast-shell-{node}");
            let pod = serde_json::json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "kube-system"},
                "spec": {
                    "nodeName": node, "hostPID": true, "hostNetwork": true, "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "shell", "image": "busybox:1", "command": ["sleep", "86400"],
                        "securityContext": {"privileged": true},
                    }],
                },
            });
            self.apply(&pod.to_string())?;
            self.wait_for(progress, &name, &["-n", "kube-system", "pod", &name], Duration::from_secs(120), |pod| {
                let phase = pod.and_then(|pod| pod["status"]["phase"].as_str()).unwrap_or("not there");
                if phase == "Running" { Ok(()) } else { Err(format!("it is {phase}")) }
            })?;
        }
        Ok(())
    }
}
