//! Addresses that are kept for a while after their ordinal was scaled away.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::namespace::{Holder, TestNamespace, text};
use crate::{manifest, traffic};

/// A StatefulSet that keeps the addresses of former ordinals for a time.
fn retaining(name: &str, time: &str) -> Value {
    manifest::annotated(manifest::stateful_set(name, 2), "ipam.spidernet.io/retain", time)
}

/// Scales a set of two to one; gives what its second pod had, and its endpoint once that is reserved.
fn shrink(namespace: &TestNamespace, set: &str) -> Result<(Holder, Value)> {
    let pod = format!("{set}-1");
    let before = namespace.ready(&pod)?;
    namespace.scale(&format!("sts/{set}"), 1)?;
    let endpoint = namespace.reserved(&pod, &before, 10)?;
    Ok((before, endpoint))
}

#[test]
fn retained_addresses_wait_for_their_ordinal_until_the_time_is_over() -> Result<()> {
    let namespace = TestNamespace::shared("retain", 6)?;
    namespace.apply(retaining("long", "24h"))?;
    namespace.apply(retaining("short", "3s"))?;
    let (before, _) = shrink(&namespace, "long")?;
    let (_, endpoint) = shrink(&namespace, "short")?;

    namespace.freed("short-1", 10)?;
    let vacated: Timestamp = text(&endpoint, "/status/history/0/endedAt")?.parse()?;
    let kept = Duration::try_from(Timestamp::now().duration_since(vacated))?;
    ensure!(kept >= Duration::from_secs(3), "the addresses were kept for {kept:?} only");

    // Its own time has not come.
    namespace.reserved("long-1", &before, 0)?;
    namespace.scale("sts/long", 2)?;
    let after = namespace.ready_as("long-1", |now| now.uid != before.uid)?;
    before.sticks(&after)?;
    traffic::reaches(namespace.world, &after)?;
    namespace.finish()
}
