//! The laboratory: a real Kubernetes with two nodes on this machine, for tests, the demo and people.
//!
//! ```text
//!            control plane 172.22.0.1 · fd00:22::1
//!            etcd · API server :6443 · controllers · scheduler
//!            bridge br0 = the LAN 172.22.0.0/16 · fd00:22::/64
//!        ┌──────────────┬───────────────────────┐
//!   node1 .11      node2 .12                lan .100
//!   containerd, kubelet, kube-proxy, pods   a host that is no node
//! ```
//! Each place is a network namespace; a node is a mount namespace and a set of cgroups too. Nodes start without a CNI
//! configuration, so they are not ready, and pods on the host's network run on them all the same.

mod cgroup;
mod control_plane;
mod description;
mod down;
mod layout;
mod netns_command;
mod network;
mod node;
mod node_files;
mod node_root;
pub mod pki;
mod process;
mod up;

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

pub use self::description::{Description, Networks, NodeDescription};
use self::layout::{CP, LAN, Layout, NODES};
pub use self::layout::{DEFAULT, of_checkout};
use self::netns_command::{in_netns, kubectl};
pub use self::node::Node;
use crate::progress::Progress;
use crate::setup::Release;

/// A laboratory that was brought up. It stays up when this value is dropped.
///
/// The value that brought a laboratory up locks its name until it is dropped: others that would bring it up or remove it
/// wait. A value that was loaded holds no lock.
pub struct Lab {
    layout: Layout,
    description: Box<Description>,
    /// The lock; none in a laboratory that was loaded.
    lock: Option<File>,
}

impl Lab {
    /// Brings the laboratory `name` up with a release of Kubernetes; one that is up already is left alone.
    pub fn up(name: &str, release: Release, progress: &Progress) -> Result<Self> {
        let layout = Layout::new(name)?;
        let lock = layout.lock(progress)?;
        let description = Box::new(up::up(&layout, release, progress)?);
        Ok(Self { layout, description, lock: Some(lock) })
    }

    /// Brings the laboratory `name` up from nothing, whatever is left of an earlier one.
    pub fn recreate(name: &str, release: Release, progress: &Progress) -> Result<Self> {
        let layout = Layout::new(name)?;
        let lock = layout.lock(progress)?;
        let description = Box::new(up::recreate(&layout, release, progress)?);
        Ok(Self { layout, description, lock: Some(lock) })
    }

    /// Returns the laboratory `name`, which must be up.
    pub fn load(name: &str) -> Result<Self> {
        let layout = Layout::new(name)?;
        let description = Description::read(&layout.state)?.with_context(|| {
            let others = layout::present().map_or_else(String::new, |names| format!("; there are: {names}"));
            format!("there is no laboratory {name}: `cargo xtask lab --name {name} up` makes it{others}")
        })?;
        Ok(Self { layout, description: Box::new(description), lock: None })
    }

    /// Removes the laboratory `name` in any state; does nothing if there is none.
    pub fn remove(name: &str, progress: &Progress) -> Result<()> {
        let layout = Layout::new(name)?;
        if !layout.may_be_there() {
            progress.log(format!("there is no laboratory {name}"));
            return Ok(());
        }
        let _lock = layout.lock(progress)?;
        down::down(&layout, progress)
    }

    /// Removes it.
    pub fn down(self, progress: &Progress) -> Result<()> {
        let _lock = self.lock.map_or_else(|| self.layout.lock(progress), Ok)?;
        down::down(&self.layout, progress)
    }

    /// Returns its names, files and addresses, as they were when it was brought up or loaded.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Returns a kubectl command for it.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = kubectl(&self.layout, &self.description.programs);
        command.args(arguments);
        command
    }

    /// Returns the node called `name`.
    pub fn node(&self, name: &str) -> Result<Node> {
        let place = NODES.into_iter().find(|place| place.name == name);
        let place = place.with_context(|| format!("there is no node `{name}`: the nodes are {}", names()))?;
        Ok(Node::new(&self.layout, place, &self.description.programs))
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> Vec<Node> {
        NODES.map(|place| Node::new(&self.layout, place, &self.description.programs)).into()
    }

    /// Returns a command on the LAN's host.
    pub fn in_lan<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        in_netns(&self.layout, LAN, arguments)
    }

    /// Returns a command in the control plane's network namespace, where the API server's address is reachable.
    pub fn in_cp<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        in_netns(&self.layout, CP, arguments)
    }

    /// Makes the image in `archive` known to every node.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        self.nodes().iter().try_for_each(|node| node.load_image(archive))
    }

    /// Returns the services that should run and do not.
    pub fn ended(&self) -> Result<Vec<String>> {
        up::ended(&self.layout, &self.description.programs)
    }

    /// Prints the commands to inspect it and to remove it.
    pub(crate) fn log_commands(&self, progress: &Progress) {
        progress.log(format!("try:        {} kubectl -- get nodes", self.layout.command()));
        progress.log(format!("remove it:  {} down", self.layout.command()));
    }
}

fn names() -> String {
    NODES.map(|place| place.name).join(", ")
}
