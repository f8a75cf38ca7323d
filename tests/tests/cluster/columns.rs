//! `kubectl get` by short names: the columns that people and scripts know.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::manifest;
use crate::stage::{Stage, same};

/// The words of a table's first line.
fn header(stage: &Stage, arguments: &[&str]) -> Result<Vec<String>> {
    let table = stage.kubectl(&[&["get"], arguments].concat())?;
    let first = table.lines().next().with_context(|| format!("{arguments:?} shows nothing"))?;
    Ok(first.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn short_names_show_the_documented_columns() -> Result<()> {
    let stage = Stage::new("columns", 3)?;
    stage.world.cluster.apply(&reserved(&stage).to_string())?;
    stage.apply(manifest::pod("one"))?;
    let holder = stage.ready("one")?;
    stage.pool_shows(&stage.pool4, |shown| (shown.len() == 1).then_some(()))?;

    let pool = ["NAME", "VERSION", "SUBNET", "ALLOCATED-IP-COUNT", "TOTAL-IP-COUNT", "DEFAULT"];
    let endpoint = ["INTERFACE", "IPV4POOL", "IPV4", "IPV6POOL", "IPV6", "NODE"];
    let claim = ["NAME", "ADDRESS", "POOL", "ENDPOINT", "AGE"];
    let expected: [(&[&str], Vec<&str>); 6] = [
        (&["sp"], pool.to_vec()),
        (&["sp", "-o", "wide"], [&pool[..], &["DISABLE", "NODENAME", "MULTUSNAME"]].concat()),
        (&["se", "-A"], [&["NAMESPACE", "NAME"], &endpoint[..]].concat()),
        (&["se", "-o", "wide"], [&["NAME"], &endpoint[..], &["CONTAINER", "GENERATION"]].concat()),
        (&["sr"], vec!["NAME", "VERSION"]),
        (&["ipc"], claim.to_vec()),
    ];
    for (arguments, columns) in expected {
        let shown: Vec<_> = header(&stage, arguments)?.into_iter().map(|word| word.to_uppercase()).collect();
        same(&arguments.join(" "), &shown, &columns.into_iter().map(str::to_owned).collect())?;
    }

    let row = stage.kubectl(&["get", "se", "one", "--no-headers"])?;
    let row: Vec<_> = row.split_whitespace().collect();
    same(
        "the endpoint's row",
        &row,
        &vec!["one", "eth0", &stage.pool4, &holder.ipv4, &stage.pool6, &holder.ipv6, &holder.node],
    )?;
    let row = stage.kubectl(&["get", "sp", &stage.pool4, "--no-headers"])?;
    let row: Vec<_> = row.split_whitespace().collect();
    same("the pool's row", &row, &vec![stage.pool4.as_str(), "4", "172.22.0.0/16", "1", "3", "false"])?;
    let row = stage.kubectl(&["get", "sp", &stage.pool6, "--no-headers"])?;
    let row: Vec<_> = row.split_whitespace().collect();
    same("the pool's row", &row, &vec![stage.pool6.as_str(), "6", "fd00:22::/64", "1", "3", "false"])?;
    // One command for everything, as users type it; and by category.
    for kinds in ["sp,se,sr,ipc", "spiderpool"] {
        let all = stage.kubectl(&["get", kinds, "-A"])?;
        for word in [&stage.pool4, &holder.ipv4, &stage.namespace] {
            ensure!(all.contains(word.as_str()), "{word} is not in\n{all}");
        }
    }
    stage.world.cluster.run(&["delete", "sr", &stage.namespace])?;
    stage.finish()
}

fn reserved(stage: &Stage) -> serde_json::Value {
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderReservedIP",
        "metadata": {"name": stage.namespace}, "spec": {"ipVersion": 4, "ips": ["172.22.99.1"]},
    })
}
