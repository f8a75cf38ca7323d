//! What an ADD finds of a sandbox: a network namespace, and a process that a cgroup's name makes the container's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use xtask::progress::output;

const CGROUPS: &str = "/sys/fs/cgroup";

/// A sandbox on the node that the calling thread is on. It goes when it is dropped.
pub(super) struct Sandbox {
    pub(super) container: String,
    process: Child,
    cgroup: PathBuf,
}

impl Sandbox {
    /// `node` is the node's cgroup.
    pub(super) fn new(node: &str, container: &str) -> Result<Self> {
        // Version 2, or of version 1 a hierarchy in which a new cgroup needs no settings.
        let root = Path::new(CGROUPS);
        let root = if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("pids") };
        let cgroup = root.join(node).join(container);
        fs::create_dir(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
        let process = Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn().context("starting a sleep")?;
        let sandbox = Self { container: container.to_owned(), process, cgroup };
        fs::write(sandbox.cgroup.join("cgroup.procs"), sandbox.process.id().to_string())?;
        output(Command::new("ip").args(["netns", "add", container]))?;
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait()).and_then(|_| fs::remove_dir(&self.cgroup));
        if let Err(error) = ended {
            eprintln!("{}: {error}", self.cgroup.display());
        }
        // It may never have been made.
        drop(Command::new("ip").args(["netns", "del", &self.container]).output());
    }
}
