//! A pool that is used up by nobody.

use anyhow::Result;
use serde_json::{Value, json};
use xtask::progress::Look;

use crate::stage::{LIMIT, Stage, same};
use crate::{manifest, traffic};

const SIZE: u16 = 3;

/// Claims of all addresses of the stage's pools, for an endpoint that there is not.
fn orphans(stage: &Stage) -> Result<Vec<Value>> {
    let addresses = (1..=SIZE).flat_map(|number| stage.addresses(number).into_iter().zip([&stage.pool4, &stage.pool6]));
    let claim = |(address, pool): (String, &String)| {
        let name = holdfast_api::claim::name_of(address.parse()?);
        Ok(json!({
            "apiVersion": "holdfast.io/v1alpha1", "kind": "IPClaim",
            "metadata": {"name": name, "labels": {"holdfast.io/pool": pool}},
            "spec": {"address": address, "pool": pool, "endpoint": nobody(stage), "state": "held"},
        }))
    };
    addresses.map(claim).collect()
}

fn nobody(stage: &Stage) -> String {
    format!("{}/nobody", stage.namespace)
}

#[test]
fn a_pod_starts_once_the_pools_orphans_are_collected() -> Result<()> {
    let stage = Stage::new("orphans", SIZE)?;
    stage.world.cluster.apply(&manifest::list(&orphans(&stage)?).to_string())?;
    stage.apply(manifest::pod("front"))?;
    let holder = stage.ready("front")?;
    traffic::reaches(stage.world, &holder)?;
    stage.in_use(1)?;
    stage.wait("the claims of nobody to go", LIMIT, || {
        let claims = stage.claims()?;
        let left = claims.iter().filter(|claim| claim["spec"]["endpoint"] == nobody(&stage)).count();
        Ok(if left == 0 { Look::Done(()) } else { Look::NotYet(format!("{left} are there")) })
    })?;
    same("the holder", &stage.holder("front")?, &holder)?;
    stage.finish()
}
