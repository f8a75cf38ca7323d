//! The runtime cannot tell that a pod has ended: the plugin's file is not there.

use anyhow::{Context, Result};
use xtask::progress::Poll;

use crate::namespace::TestNamespace;
use crate::nodes::{self, PluginAway};
use crate::{manifest, traffic};

#[test]
fn addresses_are_freed_without_the_plugin() -> Result<()> {
    let namespace = TestNamespace::exclusive("plugin", 4)?;
    let world = namespace.world;
    let [node, _] = nodes::both(world)?;
    namespace.apply(manifest::on_node(manifest::stateful_set("web", 1), &node))?;
    namespace.apply(manifest::on_node(manifest::deployment("front", 1), &node))?;
    let sticky = namespace.ready("web-0")?;
    let plain = namespace.ready_pod("front", "")?;
    let former = namespace.ready(&plain)?;
    traffic::reaches(world, &former)?;

    let away = PluginAway::on(world, &node)?;
    namespace.kubectl(&["delete", "pod", "web-0", &plain, "--force", "--grace-period=0"])?;
    namespace.freed(&plain, 10)?;
    namespace.wait("the former container to be cut off", 5, || {
        let heard = traffic::reaches(world, &former).is_ok();
        Ok(if heard { Poll::Pending("it answers".into()) } else { Poll::Ready(()) })
    })?;
    namespace.event("web-0", &["failed to find plugin"])?;
    namespace.keeps("web-0", &sticky, &namespace.endpoint("web-0")?.context("the endpoint is kept")?)?;
    drop(away);

    let after = namespace.ready_as("web-0", |now| now.uid != sticky.uid)?;
    sticky.sticks(&after)?;
    traffic::reaches(world, &after)?;
    traffic::reaches(world, &namespace.ready(&namespace.ready_pod("front", &plain)?)?)?;
    namespace.in_use(2)?;
    namespace.finish()
}
