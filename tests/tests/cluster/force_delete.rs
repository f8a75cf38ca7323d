//! Pods that are taken off the API server at once, before their containers have ended.

use anyhow::Result;

use crate::namespace::TestNamespace;
use crate::{manifest, traffic};

#[test]
fn force_deleted_pods_keep_or_free_their_addresses() -> Result<()> {
    let namespace = TestNamespace::shared("forced", 4)?;
    namespace.apply(manifest::stateful_set("web", 1))?;
    namespace.apply(manifest::deployment("front", 1))?;
    let sticky = namespace.ready("web-0")?;
    let plain = namespace.ready_pod("front", "")?;
    namespace.kubectl(&["delete", "pod", "web-0", &plain, "--force", "--grace-period=0"])?;
    namespace.freed(&plain, 10)?;
    let after = namespace.ready_as("web-0", |now| now.uid != sticky.uid)?;
    sticky.sticks(&after)?;
    traffic::reaches(namespace.world, &after)?;
    traffic::reaches(namespace.world, &namespace.ready(&namespace.ready_pod("front", &plain)?)?)?;
    namespace.in_use(2)?;
    namespace.finish()
}
