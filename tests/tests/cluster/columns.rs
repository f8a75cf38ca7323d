//! `kubectl get` by short names: the columns that people and scripts know.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::manifest;
use crate::namespace::{TestNamespace, same};

/// The words of a table's first line.
fn header(namespace: &TestNamespace, arguments: &[&str]) -> Result<Vec<String>> {
    let table = namespace.kubectl(&[&["get"], arguments].concat())?;
    let first = table.lines().next().with_context(|| format!("{arguments:?} shows nothing"))?;
    Ok(first.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn short_names_show_the_documented_columns() -> Result<()> {
    let namespace = TestNamespace::shared("columns", 3)?;
    namespace.apply_labelled(vec![reserved(&namespace)])?;
    namespace.apply(manifest::pod("one"))?;
    let holder = namespace.ready("one")?;
    namespace.pool_shows(&namespace.pool4, |shown| (shown.len() == 1).then_some(()))?;

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
        let shown: Vec<_> = header(&namespace, arguments)?.into_iter().map(|word| word.to_uppercase()).collect();
        same(&arguments.join(" "), &shown, &columns.into_iter().map(str::to_owned).collect())?;
    }

    let row = namespace.kubectl(&["get", "se", "one", "--no-headers"])?;
    let row: Vec<_> = row.split_whitespace().collect();
    same(
        "the endpoint's row",
        &row,
        &vec!["one", "eth0", &namespace.pool4, &holder.ipv4, &namespace.pool6, &holder.ipv6, &holder.node],
    )?;
    let row = namespace.kubectl(&["get", "sp", &namespace.pool4, "--no-headers"])?;
    let row: Vec<_> = row.split_whitespace().collect();
    same("the pool's row", &row, &vec![namespace.pool4.as_str(), "4", "172.22.0.0/16", "1", "3", "false"])?;
    let row = namespace.kubectl(&["get", "sp", &namespace.pool6, "--no-headers"])?;
    let row: Vec<_> = row.split_whitespace().collect();
    same("the pool's row", &row, &vec![namespace.pool6.as_str(), "6", "fd00:22::/64", "1", "3", "false"])?;
    // One command for everything, as users type it; and by category.
    for kinds in ["sp,se,sr,ipc", "spiderpool"] {
        let all = namespace.kubectl(&["get", kinds, "-A"])?;
        for word in [&namespace.pool4, &holder.ipv4, &namespace.name] {
            ensure!(all.contains(word.as_str()), "{word} is not in\n{all}");
        }
    }
    namespace.finish()
}

fn reserved(namespace: &TestNamespace) -> serde_json::Value {
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderReservedIP",
        "metadata": {"name": namespace.name}, "spec": {"ipVersion": 4, "ips": ["172.22.99.1"]},
    })
}
