//! A StatefulSet whose author names other pools: its pods move, and leave nothing before they have something new.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use xtask::progress::Poll;

use crate::namespace::{Holder, TestNamespace, same, text};
use crate::{manifest, traffic};

fn time(object: &Value, pointer: &str) -> Result<Timestamp> {
    text(object, pointer)?.parse().with_context(|| format!("{pointer} in {object}"))
}

/// Waits until the claims of the addresses rest; gives when the first of them was released.
fn released(namespace: &TestNamespace, holder: &Holder) -> Result<Timestamp> {
    namespace.wait("the former addresses to be released", 10, || {
        let claims = namespace.claims()?;
        let of_holder =
            claims.iter().filter(|claim| holder.addresses().iter().any(|it| claim["spec"]["address"] == *it));
        let specs: Vec<_> = of_holder.map(|claim| &claim["spec"]).collect();
        ensure!(specs.len() == 2, "released addresses should rest: {specs:?}");
        if specs.iter().any(|spec| spec["state"] != "released") {
            return Ok(Poll::Pending(format!("{specs:?}")));
        }
        let times: Vec<_> = specs.iter().map(|spec| time(spec, "/releasedAt")).collect::<Result<_>>()?;
        Ok(Poll::Ready(times.into_iter().min().context("there are two")?))
    })
}

#[test]
fn a_changed_annotation_moves_the_pod_once_it_has_new_addresses() -> Result<()> {
    let namespace = TestNamespace::shared("repool", 4)?;
    let [more4, more6] = namespace.more_pools(4, &json!({"disable": true}))?;
    let set = manifest::stateful_set("web", 1);
    namespace.apply(manifest::from_pools(set.clone(), &namespace.pool4, &namespace.pool6))?;
    let before = namespace.ready("web-0")?;

    namespace.apply(manifest::from_pools(set, &more4, &more6))?;
    namespace.event("web-0", &["ipam.spidernet.io/ippool", &more4, &more6, "is disabled"])?;
    let waiting = namespace.endpoint("web-0")?.context("the endpoint is kept")?;
    namespace.keeps("web-0", &before, &waiting)?;

    for pool in [&more4, &more6] {
        namespace.kubectl(&["patch", "sp", pool, "--type=merge", "--patch", r#"{"spec":{"disable":false}}"#])?;
    }
    let after = namespace.ready_as("web-0", |now| now.uid != before.uid)?;
    let endpoint = namespace.endpoint("web-0")?.context("the endpoint is there")?;
    let ip = &endpoint["status"]["current"]["ips"][0];
    same("the pools", &[&ip["ipv4Pool"], &ip["ipv6Pool"]], &[&json!(more4), &json!(more6)])?;
    ensure!(after.ipv4 != before.ipv4 && after.ipv6 != before.ipv6, "{before:?} kept an address: {after:?}");
    ensure!(after.generation > before.generation, "the generation did not grow: {before:?} → {after:?}");
    traffic::reaches(namespace.world, &after)?;
    let (bound, released) = (time(&endpoint, "/status/current/boundAt")?, released(&namespace, &before)?);
    ensure!(bound <= released, "the former addresses were released at {released}, before the new ones held: {bound}");
    namespace.in_use(0)?;
    for (pool, address) in [more4, more6].iter().zip(after.addresses()) {
        namespace.pool_shows(pool, |shown| (shown.len() == 1 && shown.contains_key(address)).then_some(()))?;
    }
    namespace.finish()
}
