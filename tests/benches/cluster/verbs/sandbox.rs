//! The parts of a sandbox that an ADD looks for: a network namespace, and a process in a cgroup with the container's ID
//! in its name.
//!
//! Both are on the node that the calling thread has entered.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use xtask::progress::output;

const CGROUPS: &str = "/sys/fs/cgroup";

/// A network namespace, empty. It goes when it is dropped; the kernel takes it apart after that, for some time, and ADDs
/// are slower meanwhile.
pub(super) struct Network {
    name: String,
}

impl Network {
    pub(super) fn new(name: &str) -> Result<Self> {
        output(Command::new("ip").args(["netns", "add", name]))?;
        Ok(Self { name: name.to_owned() })
    }

    /// Returns its path, as a runtime has it.
    pub(super) fn path(&self) -> String {
        format!("/var/run/netns/{}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// A container's process. It ends when it is dropped.
pub(super) struct Process {
    process: Child,
    cgroup: PathBuf,
}

impl Process {
    /// Starts a process for `container` below `node`, the node's cgroup.
    pub(super) fn new(node: &str, container: &str) -> Result<Self> {
        // Version 2, or of version 1 a hierarchy in which a new cgroup needs no settings.
        let root = Path::new(CGROUPS);
        let root = if root.join("cgroup.controllers").exists() { root.to_owned() } else { root.join("pids") };
        let cgroup = root.join(node).join(container);
        fs::create_dir(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
        let process = Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn().context("starting a sleep")?;
        let process = Self { process, cgroup };
        fs::write(process.cgroup.join("cgroup.procs"), process.process.id().to_string())?;
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait()).and_then(|_| fs::remove_dir(&self.cgroup));
        if let Err(error) = ended {
            eprintln!("{}: {error}", self.cgroup.display());
        }
    }
}
