//! The laboratory: a real Kubernetes with two nodes on this machine, for tests, the demo and people.
//!
//! ```text
//!            control plane 172.22.0.1 · fd00:22::1
//!            etcd · API server :6443 · controllers · scheduler
//!            bridge br0 = the LAN 172.22.0.0/16 · fd00:22::/64
//!        ┌──────────────┬───────────────────────┐
//!   node1 .11      node2 .12                lan .100
//!   containerd, kubelet, pods               a host that is no node
//! ```
//! Each place is a network namespace; a node is a mount namespace and a set of cgroups too. Nodes start without a CNI
//! configuration, so they are not ready, and pods on the host's network run on them all the same.

pub mod command;

mod cgroup;
mod control_plane;
mod description;
mod down;
mod layout;
mod network;
mod node;
mod node_files;
mod node_root;
pub mod pki;
mod process;
mod up;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

pub use self::description::{Description, Networks, NodeDescription};
use self::layout::{CP, LAN, Layout, NODES, Place};
pub use self::node::Node;
use crate::progress::Progress;

/// A laboratory that was brought up. It stays up when this value is dropped.
pub struct Lab {
    layout: Layout,
    description: Box<Description>,
}

impl Lab {
    /// Brings the laboratory `name` up; one that is up already is left alone.
    pub fn up(name: &str, progress: &Progress) -> Result<Self> {
        let layout = Layout::new(name)?;
        let description = Box::new(up::up(&layout, progress)?);
        Ok(Self { layout, description })
    }

    /// The laboratory `name`, which must be up.
    pub fn load(name: &str) -> Result<Self> {
        let layout = Layout::new(name)?;
        let description = Description::read(&layout.state)?
            .with_context(|| format!("there is no laboratory {name}: `cargo xtask lab --name {name} up` makes it"))?;
        Ok(Self { layout, description: Box::new(description) })
    }

    /// Removes the laboratory `name`, whatever state it is in; fine if there is none.
    pub fn remove(name: &str, progress: &Progress) -> Result<()> {
        down::down(&Layout::new(name)?, progress)
    }

    /// Removes it.
    pub fn down(self, progress: &Progress) -> Result<()> {
        down::down(&self.layout, progress)
    }

    /// Its names, files and addresses, as they were when it was brought up or loaded.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// A kubectl command for it.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = kubectl(&self.layout, &self.description.programs);
        command.args(arguments);
        command
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Result<Node> {
        let place = NODES.into_iter().find(|place| place.name == name);
        let place = place.with_context(|| format!("there is no node `{name}`: the nodes are {}", names()))?;
        Ok(Node::new(&self.layout, place, &self.description.programs))
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Node> {
        NODES.map(|place| Node::new(&self.layout, place, &self.description.programs)).into()
    }

    /// A command on the LAN's host.
    pub fn in_lan<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        in_network(&self.layout, LAN, arguments)
    }

    /// A command in the control plane's network namespace, where the API server's address is reachable.
    pub fn in_cp<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        in_network(&self.layout, CP, arguments)
    }

    /// Makes the image in `archive` known to every node.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        self.nodes().iter().try_for_each(|node| node.load_image(archive))
    }

    fn ended(&self) -> Result<Vec<String>> {
        up::ended(&self.layout, &self.description.programs)
    }

    fn say_how(&self, progress: &Progress) {
        let name = if self.layout.name == "lab" { String::new() } else { format!(" --name {}", self.layout.name) };
        progress.say(format!("try: cargo xtask lab{name} kubectl -- get nodes"));
    }
}

fn names() -> String {
    NODES.map(|place| place.name).join(", ")
}

fn kubectl(layout: &Layout, programs: &Path) -> Command {
    let mut command = in_network(layout, CP, &[programs.join("kubectl")]);
    command.arg("--kubeconfig").arg(layout.kubeconfig());
    // The usual folder is shared by all clusters at one address, and every laboratory has the same.
    command.arg("--cache-dir").arg(layout.state.join("kubectl-cache"));
    command
}

fn in_network<S: AsRef<OsStr>>(layout: &Layout, place: Place, arguments: &[S]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", layout.netns(place).display())).arg("--").args(arguments);
    command
}
