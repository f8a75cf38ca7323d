//! The records that users read about a StatefulSet's addresses: the pool's status and the endpoint, word for word.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::manifest;
use crate::namespace::{TestNamespace, same, text};

#[test]
fn pool_and_endpoint_have_the_documented_form() -> Result<()> {
    let namespace = TestNamespace::shared("records", 10)?;
    namespace.apply(manifest::stateful_set("demo-sts", 2))?;
    for name in ["demo-sts-0", "demo-sts-1"] {
        let holder = namespace.ready(name)?;
        for (pool, address) in [&namespace.pool4, &namespace.pool6].into_iter().zip(holder.addresses()) {
            // The text itself, not what a parser makes of it: scripts cut it with jq and worse.
            let record = format!(
                r#""{address}":{{"interface":"eth0","pod":"{}/{name}","podUid":"{}","containerID":"{}"}}"#,
                namespace.name, holder.uid, holder.container
            );
            namespace.pool_shows(pool, |shown| {
                shown.get(address).filter(|it| it["containerID"] == *holder.container).map(drop)
            })?;
            let yaml = namespace.kubectl(&["get", "sp", pool, "-o", "yaml"])?;
            ensure!(yaml.contains(&record), "{record} is not in\n{yaml}");
            let json = namespace.kubectl(&["get", "sp", pool, "-o", "jsonpath={.status.allocatedIPs}"])?;
            ensure!(json.contains(&record), "{record} is not in {json}");
        }
    }
    for pool in [&namespace.pool4, &namespace.pool6] {
        namespace.pool_shows(pool, |shown| (shown.len() == 2).then_some(()))?;
        let counts = ["get", "sp", pool, "-o", "jsonpath={.status.allocatedIPCount}/{.status.totalIPCount}"];
        same("counts", &namespace.kubectl(&counts)?.as_str(), &"2/10")?;
    }
    endpoint(&namespace)?;
    namespace.finish()
}

fn endpoint(namespace: &TestNamespace) -> Result<()> {
    let holder = namespace.holder("demo-sts-0")?;
    let pod = namespace.pod("demo-sts-0")?.context("the pod runs")?;
    let endpoint: Value = serde_json::from_str(&namespace.kubectl(&["get", "se", "demo-sts-0", "-o", "json"])?)?;
    let status = &endpoint["status"];
    let ip = json!({
        "interface": "eth0", "ipv4": holder.ipv4, "ipv4Pool": namespace.pool4, "ipv6": holder.ipv6, "ipv6Pool": namespace.pool6,
        "vlan": 0, "ipv4Gateway": "172.22.0.1", "ipv6Gateway": "fd00:22::1",
    });
    let ips = status["current"]["ips"].as_array().context("the endpoint lists ips")?;
    same("interfaces", &ips.len(), &1)?;
    for (key, value) in ip.as_object().context("an object")? {
        same(key, &&ips[0][key], &value)?;
    }
    ensure!(holder.ipv4.ends_with("/16") && holder.ipv6.ends_with("/64"), "not in CIDR form: {holder:?}");
    same("uid", &text(status, "/current/uid")?, &text(&pod, "/metadata/uid")?)?;
    same("node", &text(status, "/current/node")?, &text(&pod, "/spec/nodeName")?)?;
    same("type", &text(status, "/ownerControllerType")?, &"StatefulSet")?;
    same("owner", &text(status, "/ownerControllerName")?, &"demo-sts")?;
    same("generation", &status["current"]["generation"], &json!(1))?;
    // The pod itself shows the same addresses.
    let shown: Vec<_> = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| ip["ip"].clone()).collect();
    same("podIPs", &shown, &holder.addresses().map(|address| json!(address)).to_vec())?;
    // YAML as people read it.
    let yaml = namespace.kubectl(&["get", "se", "demo-sts-0", "-o", "yaml"])?;
    for line in [format!("ipv4: {}", holder.ipv4), "vlan: 0".to_owned(), format!("containerID: {}", holder.container)] {
        ensure!(yaml.contains(&line), "{line} is not in\n{yaml}");
    }
    Ok(())
}
