//! A pool that is used up by claims of an endpoint that does not exist.

use anyhow::Result;
use serde_json::{Value, json};
use xtask::progress::Poll;

use crate::namespace::{LIMIT, TestNamespace, same};
use crate::{manifest, traffic};

const SIZE: u16 = 3;

/// Claims of all addresses of the namespace's pools, for an endpoint that does not exist.
fn orphans(namespace: &TestNamespace) -> Result<Vec<Value>> {
    let addresses =
        (1..=SIZE).flat_map(|number| namespace.addresses(number).into_iter().zip([&namespace.pool4, &namespace.pool6]));
    let claim = |(address, pool): (String, &String)| {
        let name = holdfast_api::claim::name_of(address.parse()?);
        Ok(json!({
            "apiVersion": "holdfast.io/v1alpha1", "kind": "IPClaim",
            "metadata": {"name": name, "labels": {"holdfast.io/pool": pool}},
            "spec": {"address": address, "pool": pool, "endpoint": missing_endpoint(namespace), "state": "held"},
        }))
    };
    addresses.map(claim).collect()
}

fn missing_endpoint(namespace: &TestNamespace) -> String {
    format!("{}/missing", namespace.name)
}

#[test]
fn a_pod_starts_once_the_pools_orphans_are_collected() -> Result<()> {
    let namespace = TestNamespace::shared("orphans", SIZE)?;
    namespace.world.cluster.apply(&manifest::list(&orphans(&namespace)?).to_string())?;
    namespace.apply(manifest::pod("front"))?;
    let holder = namespace.ready("front")?;
    traffic::reaches(namespace.world, &holder)?;
    namespace.in_use(1)?;
    namespace.wait("the orphaned claims to go", LIMIT, || {
        let claims = namespace.claims()?;
        let left = claims.iter().filter(|claim| claim["spec"]["endpoint"] == missing_endpoint(&namespace)).count();
        Ok(if left == 0 { Poll::Ready(()) } else { Poll::Pending(format!("{left} are there")) })
    })?;
    same("the holder", &namespace.holder("front")?, &holder)?;
    namespace.finish()
}
