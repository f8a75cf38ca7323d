//! Pods that are taken off the API server at once, before their containers have ended.

use anyhow::Result;

use crate::stage::Stage;
use crate::{manifest, traffic};

#[test]
fn force_deleted_pods_keep_or_free_their_addresses() -> Result<()> {
    let stage = Stage::new("forced", 4)?;
    stage.apply(manifest::stateful_set("web", 1))?;
    stage.apply(manifest::deployment("front", 1))?;
    let sticky = stage.ready("web-0")?;
    let plain = stage.ready_pod("front", "")?;
    stage.kubectl(&["delete", "pod", "web-0", &plain, "--force", "--grace-period=0"])?;
    stage.freed(&plain, 10)?;
    let after = stage.ready_as("web-0", |now| now.uid != sticky.uid)?;
    sticky.sticks(&after)?;
    traffic::reaches(stage.world, &after)?;
    traffic::reaches(stage.world, &stage.ready(&stage.ready_pod("front", &plain)?)?)?;
    stage.in_use(2)?;
    stage.finish()
}
