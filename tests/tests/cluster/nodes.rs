//! Nodes without something that they need, for as long as what is returned is kept. It comes back however the test ends.

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use xtask::lab::Node;
use xtask::progress::{Poll, output};

use crate::agents;
use crate::namespace::{LIMIT, is_ready, text};
use crate::world::World;

const PLUGIN: &str = "/opt/cni/bin/holdfast";
const ELSEWHERE: &str = "/opt/cni/holdfast.away";

/// Returns the names of both nodes.
pub(crate) fn both(world: &World) -> Result<[String; 2]> {
    match world.cluster.nodes()?.try_into() {
        Ok(nodes) => Ok(nodes),
        Err(nodes) => bail!("the laboratory should have two nodes: {nodes:?}"),
    }
}

/// An error unless the kubelet has reported since then and the node takes pods.
pub(crate) fn takes_pods(world: &World, name: &str, since: Timestamp) -> Result<()> {
    let lease = world.api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", name)?;
    renewed(lease.as_ref(), since).with_context(|| format!("the kubelet on {name}"))?;
    let node = world.api.get("/api/v1/nodes", name)?.with_context(|| format!("{name} is not registered"))?;
    let spec = &node["spec"];
    ensure!(is_ready(&node), "{name} is not Ready: {}", node["status"]["conditions"]);
    ensure!(spec["taints"].is_null() && spec["unschedulable"].is_null(), "{name} takes no pods: {spec}");
    Ok(())
}

/// An error unless a lease was renewed since then.
pub(crate) fn renewed(lease: Option<&Value>, since: Timestamp) -> Result<()> {
    let lease = lease.context("there is no lease")?;
    let renewed: Timestamp = text(lease, "/spec/renewTime")?.parse()?;
    ensure!(renewed > since, "the lease was not renewed after {renewed}");
    Ok(())
}

/// A node that gets no new pods, until this is dropped.
pub(crate) struct Cordoned {
    world: &'static World,
    node: String,
}

impl Cordoned {
    pub(crate) fn new(world: &'static World, node: &str) -> Result<Self> {
        let cordoned = Self { world, node: node.to_owned() };
        world.cluster.run(&["cordon", node])?;
        Ok(cordoned)
    }
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        if let Err(error) = self.world.cluster.run(&["uncordon", &self.node]) {
            eprintln!("{} stays cordoned: {error:#}", self.node);
        }
    }
}

/// A node whose kubelet and containerd are away. Pods go on.
pub(crate) struct RuntimeAway {
    world: &'static World,
    node: Node,
    back: bool,
}

impl RuntimeAway {
    pub(crate) fn on(world: &'static World, node: &str) -> Result<Self> {
        let away = Self { world, node: world.lab().node(node)?, back: false };
        away.node.stop_runtime(&world.progress)?;
        Ok(away)
    }

    /// Starts them; waits until the node takes pods and the agent on it serves.
    pub(crate) fn back(mut self) -> Result<()> {
        self.back = true;
        self.restore()
    }

    fn restore(&self) -> Result<()> {
        let (world, name, since) = (self.world, self.node.name(), Timestamp::now());
        self.node.start_runtime(&world.progress)?;
        world.wait(&format!("{name} to be back"), LIMIT, || {
            let back = takes_pods(world, name, since).and_then(|()| agents::serves(world, name));
            Ok(back.map_or_else(|error| Poll::Pending(format!("{error:#}")), |_| Poll::Ready(())))
        })
    }
}

impl Drop for RuntimeAway {
    fn drop(&mut self) {
        if self.back {
            return;
        }
        if let Err(error) = self.restore() {
            eprintln!("the runtime did not come back: {error:#}");
        }
    }
}

/// A node without the plugin's file.
pub(crate) struct PluginAway {
    node: Node,
}

impl PluginAway {
    pub(crate) fn on(world: &World, node: &str) -> Result<Self> {
        let away = Self { node: world.lab().node(node)? };
        output(&mut away.node.exec(&["mv", PLUGIN, ELSEWHERE]))?;
        Ok(away)
    }
}

impl Drop for PluginAway {
    fn drop(&mut self) {
        if let Err(error) = output(&mut self.node.exec(&["mv", ELSEWHERE, PLUGIN])) {
            eprintln!("the plugin did not come back: {error:#}");
        }
    }
}
