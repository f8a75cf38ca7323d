//! The laboratory as a test may expect to find it: everything runs, holdfast serves on every node, a controller leads.

use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use xtask::deploy::{self, NAMESPACE};
use xtask::progress::Poll;

use crate::namespace::LIMIT;
use crate::world::World;
use crate::{agents, nodes, sandbox};

/// Waits until the laboratory is whole.
pub(crate) fn wait(world: &World) -> Result<()> {
    let since = Timestamp::now();
    world.wait("the laboratory to be whole", LIMIT, || {
        Ok(check(world, since).map_or_else(|error| Poll::Pending(format!("{error:#}")), Poll::Ready))
    })
}

/// An error that names something which is missing. What is reported now and then was reported after `since`.
fn check(world: &World, since: Timestamp) -> Result<()> {
    let ended = world.lab().ended()?;
    ensure!(ended.is_empty(), "not running: {}", ended.join(", "));
    for (kind, name) in [("daemonsets", "holdfast-agent"), ("deployments", "holdfast-controller")] {
        let workload = world.api.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/{kind}"), name)?;
        let workload = workload.with_context(|| format!("there is no {name} among the {kind}"))?;
        deploy::rolled_out(&workload).map_err(|reason| anyhow!("{name}: {reason}"))?;
    }
    for node in world.lab().nodes() {
        nodes::takes_pods(world, node.name(), since)?;
        agents::serves(world, node.name())?;
        sandbox::status(&node)?.result().with_context(|| format!("STATUS on {}", node.name()))?;
    }
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    nodes::renewed(world.api.get(&leases, "holdfast-controller")?.as_ref(), since).context("the leading controller")
}
