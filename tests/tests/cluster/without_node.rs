//! A node that is taken out of the cluster while its pods still run, and comes back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xtask::progress::Poll;

use crate::namespace::{LIMIT, TestNamespace, same};
use crate::nodes::RuntimeAway;
use crate::{manifest, sandbox, traffic};

/// The collector's delay after a node's object has gone, and ten seconds more.
const DELAY: Duration = Duration::from_secs(5);
const WITHIN: Duration = Duration::from_secs(5 + 10);

#[test]
fn a_removed_nodes_addresses_are_collected() -> Result<()> {
    let namespace = TestNamespace::exclusive("node", 4)?;
    let world = namespace.world;
    namespace.apply(manifest::stateful_set("web", 1))?;
    let sticky = namespace.ready("web-0")?;
    namespace.apply(manifest::on_node(manifest::pod("plain"), &sticky.node))?;
    namespace.ready("plain")?;

    let away = RuntimeAway::on(world, &sticky.node)?;
    let since = Instant::now();
    world.cluster.run(&["delete", "node", &sticky.node, "--wait=false"])?;
    namespace.reserved("web-0", &sticky, WITHIN.as_secs())?;
    namespace.freed("plain", WITHIN.as_secs())?;
    let took = since.elapsed();
    ensure!((DELAY..WITHIN).contains(&took), "the addresses were free after {took:?}");

    // The pod goes on elsewhere; its former container, which still runs, does not disturb it.
    namespace.kubectl(&["delete", "pod", "web-0", "plain", "--force", "--grace-period=0"])?;
    let after = namespace.ready_as("web-0", |now| now.node != sticky.node)?;
    sticky.sticks(&after)?;
    sandbox::process_of(&sticky.container)?;
    traffic::reaches(world, &after)?;

    away.back()?;
    namespace.wait("the former container to be ended", LIMIT, || {
        let runs = sandbox::process_of(&sticky.container).is_ok();
        Ok(if runs { Poll::Pending("it runs".into()) } else { Poll::Ready(()) })
    })?;
    same("the holder", &namespace.holder("web-0")?, &after)?;
    traffic::reaches(world, &after)?;
    namespace.finish()
}
