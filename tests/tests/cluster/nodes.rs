//! Nodes without something that they need, for as long as what is returned is kept. It comes back however the test ends.

use anyhow::{Result, bail};
use xtask::lab::Node;
use xtask::progress::{Look, output};

use crate::agents;
use crate::namespace::{LIMIT, is_ready};
use crate::world::World;

const PLUGIN: &str = "/opt/cni/bin/holdfast";
const ELSEWHERE: &str = "/opt/cni/holdfast.away";

/// The names of both nodes.
pub(crate) fn both(world: &World) -> Result<[String; 2]> {
    match world.cluster.nodes()?.try_into() {
        Ok(nodes) => Ok(nodes),
        Err(nodes) => bail!("the laboratory should have two nodes: {nodes:?}"),
    }
}

/// A node whose kubelet and containerd are away. Pods go on.
pub(crate) struct RuntimeAway {
    world: &'static World,
    node: Node,
}

impl RuntimeAway {
    pub(crate) fn on(world: &'static World, node: &str) -> Result<Self> {
        let node = world.lab().node(node)?;
        node.stop_runtime(&world.progress)?;
        Ok(Self { world, node })
    }

    /// Starts them; waits until the node and the agent on it are ready.
    pub(crate) fn back(self) -> Result<()> {
        let (world, name) = (self.world, self.node.name().to_owned());
        drop(self);
        world.wait(&format!("{name} to be back"), LIMIT, || {
            let node = world.api.get("/api/v1/nodes", &name)?;
            let ready = node.as_ref().is_some_and(is_ready) && agents::on(world, &name).is_ok();
            Ok(if ready { Look::Done(()) } else { Look::NotYet("it is not ready".into()) })
        })
    }
}

impl Drop for RuntimeAway {
    fn drop(&mut self) {
        if let Err(error) = self.node.start_runtime(&self.world.progress) {
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
        let node = world.lab().node(node)?;
        output(&mut node.exec(&["mv", PLUGIN, ELSEWHERE]))?;
        Ok(Self { node })
    }
}

impl Drop for PluginAway {
    fn drop(&mut self) {
        if let Err(error) = output(&mut self.node.exec(&["mv", ELSEWHERE, PLUGIN])) {
            eprintln!("the plugin did not come back: {error:#}");
        }
    }
}
