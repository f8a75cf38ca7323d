//! `lab.json`: what a running laboratory looks like from outside.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::progress::Progress;

/// A laboratory that is up.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Description {
    /// Its name, `lab` unless chosen otherwise.
    pub name: String,
    /// The version of Kubernetes that it runs, for example `v1.37.2`.
    pub kubernetes: String,
    /// The administrator's kubeconfig. The server's address is reachable in the laboratory's network namespaces only.
    pub kubeconfig: PathBuf,
    /// The folder with everything that this laboratory writes.
    pub state_dir: PathBuf,
    /// The folder with the programs: kubectl, ctr, runc …
    pub programs: PathBuf,
    /// Network namespaces that are not a node's.
    pub netns: Networks,
    /// The nodes, by name in order.
    pub nodes: Vec<NodeDescription>,
}

/// Network namespaces as paths that `nsenter --net=` takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Networks {
    /// The control plane, which is also the switch and the gateway of the LAN.
    pub cp: PathBuf,
    /// A host on the LAN that belongs to no cluster.
    pub lan: PathBuf,
}

/// One node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NodeDescription {
    /// Its name in Kubernetes and its host name.
    pub name: String,
    /// Its address on the LAN.
    pub ip: String,
    /// Its IPv6 address on the LAN.
    pub ip6: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its cgroup, relative to each hierarchy's root.
    pub cgroup: String,
    /// containerd's socket, as a path inside the node.
    pub containerd_socket: PathBuf,
    /// A process in the node's namespaces, for `nsenter -t PID -m -u -n`; 0 while the node is off.
    pub leader_pid: i32,
    /// The folder with the logs of containerd and the kubelet, outside the node.
    pub log_dir: PathBuf,
}

impl Description {
    /// Reads the description in the state folder `folder`; nothing is there while no laboratory is up.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("lab.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Changes the description in `folder`, if there is one; one process at a time.
    pub(super) fn change(folder: &Path, progress: &Progress, change: impl FnOnce(&mut Self)) -> Result<()> {
        let Some(_) = Self::read(folder)? else { return Ok(()) };
        let _lock = cache::lock(&folder.join("lab.json.lock"), "the laboratory's description", progress)?;
        let Some(mut description) = Self::read(folder)? else { return Ok(()) };
        change(&mut description);
        description.write()
    }

    /// Writes it, all or nothing.
    pub(super) fn write(&self) -> Result<()> {
        let path = self.state_dir.join("lab.json");
        let unfinished = self.state_dir.join("lab.json.unfinished");
        fs::write(&unfinished, serde_json::to_string_pretty(self)? + "\n")?;
        fs::rename(&unfinished, &path).with_context(|| format!("writing {}", path.display()))
    }
}
