//! Addresses that a StatefulSet's author fixes for its ordinals.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::namespace::{TestNamespace, is_ready, same};
use crate::{manifest, traffic};

/// A StatefulSet whose ordinals have these addresses.
fn fixed(name: &str, addresses: &[&[String; 2]]) -> Value {
    let by_ordinal: serde_json::Map<String, Value> =
        addresses.iter().enumerate().map(|(ordinal, pair)| (ordinal.to_string(), json!(pair))).collect();
    let set = manifest::stateful_set(name, u32::try_from(addresses.len()).unwrap_or_default());
    manifest::annotated(set, "ipam.spidernet.io/static-ips", &Value::from(by_ordinal).to_string())
}

#[test]
fn each_ordinal_gets_its_static_ips_once_they_are_free() -> Result<()> {
    let namespace = TestNamespace::shared("fixed", 6)?;
    let [two, five, outside] = [2, 5, 90].map(|number| namespace.addresses(number));
    namespace.apply(fixed("web", &[&five, &two]))?;
    for (pod, addresses) in [("web-0", &five), ("web-1", &two)] {
        let holder = namespace.ready(pod)?;
        same(pod, &holder.addresses().map(str::to_owned), addresses)?;
        traffic::reaches(namespace.world, &holder)?;
    }

    namespace.apply(fixed("late", &[&two]))?;
    namespace.apply(fixed("far", &[&outside]))?;
    let holder = format!("{}/web-1 has it", namespace.name);
    namespace.event("late-0", &["static-ips", &two[0], &holder])?;
    namespace.event("far-0", &["static-ips", &outside[0], "none of the pools", &namespace.pool4])?;
    for pod in ["late-0", "far-0"] {
        ensure!(!namespace.pod(pod)?.is_some_and(|pod| is_ready(&pod)), "{pod} runs without the address fixed for it");
        ensure!(namespace.held_by(pod)?.is_empty(), "{pod} sits on addresses while it waits");
    }

    namespace.scale("sts/web", 1)?;
    let late = namespace.ready("late-0")?;
    same("late-0", &late.addresses().map(str::to_owned), &two)?;
    traffic::reaches(namespace.world, &late)?;
    namespace.finish()
}

#[test]
fn a_pod_that_waits_for_one_family_holds_no_address_of_the_other() -> Result<()> {
    let namespace = TestNamespace::shared("half", 4)?;
    let two = namespace.addresses(2);
    namespace.apply(fixed("web", &[&two]))?;
    namespace.ready("web-0")?;
    let only = json!({"0": [two[0]]}).to_string();
    namespace.apply(manifest::annotated(manifest::stateful_set("late", 1), "ipam.spidernet.io/static-ips", &only))?;
    namespace.event("late-0", &["static-ips", &two[0], "has it"])?;
    ensure!(
        namespace.held_by("late-0")?.is_empty(),
        "late-0 sits on {:?} while it waits",
        namespace.held_by("late-0")?
    );
    namespace.finish()
}
