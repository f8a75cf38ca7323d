//! The objects that the demo watches, and their lines on the terminal.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::progress::{Progress, output};

/// The StatefulSet and the pod that is watched.
pub(super) const SET: &str = "demo-sts";
pub(super) const POD: &str = "demo-sts-0";

const LIMIT: Duration = Duration::from_secs(120);

/// The holder of the watched pod's addresses, read from its endpoint and the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) ipv4: String,
    pub(super) ipv6: String,
    pub(super) uid: String,
    pub(super) container: String,
    pub(super) node: String,
    pub(super) generation: u64,
}

pub(super) struct Scene<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) progress: &'a Progress,
    begun: Instant,
    step: usize,
}

impl<'a> Scene<'a> {
    pub(super) fn new(cluster: &'a Cluster, progress: &'a Progress) -> Self {
        Self { cluster, progress, begun: Instant::now(), step: 0 }
    }

    pub(super) fn title(&mut self, text: &str) {
        self.step += 1;
        println!("\n{}. {text}", self.step);
    }

    pub(super) fn finish(&self) {
        println!("\nAll of it held, in {} s.", self.begun.elapsed().as_secs());
    }

    /// Waits until the pod is Ready and `accept` takes its holder.
    pub(super) fn holder(&self, what: &str, accept: impl Fn(&Holder) -> bool) -> Result<Holder> {
        self.cluster.wait_for(self.progress, what, &["pod", POD], LIMIT, |pod| {
            let pod = pod.ok_or("the pod is not there")?;
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready =
                conditions.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True");
            if !ready || !pod["metadata"]["deletionTimestamp"].is_null() {
                return Err("the pod is not Ready".to_owned());
            }
            let endpoint = self.cluster.get(&["se", POD]).map_err(|error| error.to_string())?;
            let holder = endpoint.as_ref().and_then(read_holder).ok_or("the endpoint names no holder")?;
            if pod["metadata"]["uid"].as_str() != Some(&holder.uid) || !accept(&holder) {
                return Err("the endpoint does not name the new holder yet".to_owned());
            }
            Ok(holder)
        })
    }

    /// Waits until the pool's status shows the holder's container at its address.
    pub(super) fn in_pool(&self, holder: &Holder) -> Result<()> {
        let address = holder.ipv4.split('/').next().unwrap_or_default();
        let pool = ["sp", "default-v4-ippool"];
        let record = self.cluster.wait_for(self.progress, "the pool's view", &pool, LIMIT, |pool| {
            let shown = pool.and_then(|pool| pool["status"]["allocatedIPs"].as_str()).ok_or("it shows no address")?;
            let shown: Value = serde_json::from_str(shown).map_err(|error| error.to_string())?;
            let record = &shown[address];
            if record["containerID"].as_str() == Some(&holder.container) {
                Ok(record.clone())
            } else {
                Err(format!("it shows {record}"))
            }
        })?;
        fact(format!("pool      \"{address}\":{record}"));
        Ok(())
    }

    /// Pings the pod from a host on the LAN, in the laboratory only.
    pub(super) fn reach_from_lan(&self, holder: &Holder) -> Result<()> {
        let Cluster::Lab(lab) = self.cluster else { return Ok(()) };
        for address in [&holder.ipv4, &holder.ipv6] {
            let address = address.split('/').next().unwrap_or_default();
            if !address.is_empty() {
                output(&mut lab.in_lan(&["ping", "-n", "-c", "1", "-W", "1", address]))
                    .with_context(|| format!("a host on the LAN does not reach {address}"))?;
                fact(format!("a host on the LAN reaches {address}"));
            }
        }
        Ok(())
    }

    pub(super) fn same_address(before: &Holder, after: &Holder) -> Result<()> {
        ensure!(before.ipv4 == after.ipv4 && before.ipv6 == after.ipv6, "the address changed: {before:?} → {after:?}");
        ensure!(before.container != after.container, "the container is still the old one: {after:?}");
        Ok(())
    }
}

/// Prints a fact that was just read.
pub(super) fn fact(text: impl AsRef<str>) {
    println!("   {}", text.as_ref());
}

/// Returns the StatefulSet of the demo.
pub(super) fn set() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": SET, "namespace": "default"},
        "spec": {
            "serviceName": SET, "replicas": 2, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": SET}},
            "template": {
                "metadata": {"labels": {"app": SET}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", "trap exit TERM; sleep 86400 & wait"],
                    }],
                },
            },
        },
    })
}

/// Prints a holder.
pub(super) fn show(holder: &Holder) {
    let short = |text: &str| text.chars().take(12).collect::<String>();
    fact(format!(
        "endpoint  {} {}  container {}  pod UID {}  node {}  generation {}",
        holder.ipv4,
        holder.ipv6,
        short(&holder.container),
        short(&holder.uid),
        holder.node,
        holder.generation
    ));
}

fn read_holder(endpoint: &Value) -> Option<Holder> {
    let current = &endpoint["status"]["current"];
    let ip = &current["ips"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Holder {
        ipv4: text(&ip["ipv4"]),
        ipv6: text(&ip["ipv6"]),
        uid: text(&current["uid"]),
        container: current["containerID"].as_str()?.to_owned(),
        node: text(&current["node"]),
        generation: current["generation"].as_u64()?,
    })
}
