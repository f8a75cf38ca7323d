//! The runtime cannot tell that a pod has ended: the plugin's file is not there.

use anyhow::{Context, Result};
use xtask::progress::Look;

use crate::nodes::{self, PluginAway};
use crate::stage::Stage;
use crate::{manifest, traffic};

#[test]
fn without_the_plugin_addresses_are_freed_all_the_same() -> Result<()> {
    let stage = Stage::alone("plugin", 4)?;
    let world = stage.world;
    let [node, _] = nodes::both(world)?;
    stage.apply(manifest::on_node(manifest::stateful_set("web", 1), &node))?;
    stage.apply(manifest::on_node(manifest::deployment("front", 1), &node))?;
    let sticky = stage.ready("web-0")?;
    let plain = stage.ready_pod("front", "")?;
    let former = stage.ready(&plain)?;
    traffic::reaches(world, &former)?;

    let away = PluginAway::on(world, &node)?;
    stage.kubectl(&["delete", "pod", "web-0", &plain, "--force", "--grace-period=0"])?;
    stage.freed(&plain, 10)?;
    stage.wait("the former container to be cut off", 5, || {
        let heard = traffic::reaches(world, &former).is_ok();
        Ok(if heard { Look::NotYet("it answers".into()) } else { Look::Done(()) })
    })?;
    stage.event("web-0", &["failed to find plugin"])?;
    stage.keeps("web-0", &sticky, &stage.endpoint("web-0")?.context("the endpoint is kept")?)?;
    drop(away);

    let after = stage.ready_as("web-0", |now| now.uid != sticky.uid)?;
    sticky.sticks(&after)?;
    traffic::reaches(world, &after)?;
    traffic::reaches(world, &stage.ready(&stage.ready_pod("front", &plain)?)?)?;
    stage.in_use(2)?;
    stage.finish()
}
