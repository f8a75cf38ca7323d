//! Installing holdfast on a cluster, as a user would: the chart's kinds, then its manifests, then wait for the nodes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::progress::{Progress, output};
use crate::{helm, image};

/// The namespace of holdfast's own pods.
pub const NAMESPACE: &str = "kube-system";

const ROLLOUT: Duration = Duration::from_secs(180);

/// Returns the chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/holdfast")
}

/// Builds the image, makes the nodes know it, and installs the chart with `values` on top of its own.
pub fn install(cluster: &Cluster, values: &Value, progress: &Progress) -> Result<()> {
    let archive = image::holdfast(progress)?;
    load(cluster, &archive)?;
    install_loaded(cluster, values, progress)
}

/// Installs the chart; the nodes have the image already.
pub fn install_loaded(cluster: &Cluster, values: &Value, progress: &Progress) -> Result<()> {
    progress.log("installing the chart");
    let kinds = chart().join("crds");
    cluster.run(&["apply", "-f", kinds.to_str().context("the chart's path is not text")?])?;
    cluster.run(&["wait", "--for=condition=Established", "crd", "--timeout=60s", "--all"])?;
    let manifests = helm::template(&chart(), NAMESPACE, values, progress)?;
    cluster.apply(&manifests)?;
    wait_ready(cluster, progress)
}

/// Waits until holdfast's pods are of the present templates and Ready, and every node says that it is ready.
pub fn wait_ready(cluster: &Cluster, progress: &Progress) -> Result<()> {
    for (what, kind, name) in
        [("the agents", "daemonset", "holdfast-agent"), ("the controller", "deployment", "holdfast-controller")]
    {
        let workload = ["-n", NAMESPACE, kind, name];
        cluster.wait_for(progress, what, &workload, ROLLOUT, |workload| {
            rolled_out(workload.ok_or_else(|| format!("there is no {kind}"))?)
        })?;
    }
    cluster.wait_for(progress, "the nodes", &["nodes"], ROLLOUT, |nodes| {
        let nodes = nodes.and_then(|nodes| nodes["items"].as_array()).ok_or("there are none")?;
        let ready = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
            ready.any(|condition| condition["status"] == "True")
        };
        let count = nodes.iter().filter(ready).count();
        if count == nodes.len() { Ok(()) } else { Err(format!("{count} of {} are ready", nodes.len())) }
    })
}

/// Returns the reason why not all pods of a DaemonSet or Deployment are of its present template and Ready, from its
/// status.
pub fn rolled_out(workload: &Value) -> Result<(), String> {
    let (wanted, present, status) =
        (&workload["spec"]["replicas"], &workload["metadata"]["generation"], &workload["status"]);
    if status["observedGeneration"] != *present {
        return Err("its controller has not seen the present template".to_owned());
    }
    let (wanted, counts) = if wanted.is_null() {
        (&status["desiredNumberScheduled"], ["currentNumberScheduled", "updatedNumberScheduled", "numberReady"])
    } else {
        (wanted, ["replicas", "updatedReplicas", "readyReplicas"])
    };
    let short = counts.into_iter().find(|count| status[count] != *wanted);
    match short {
        Some(count) => Err(format!("{count} is {}, should be {wanted}", status[count])),
        None if wanted.as_u64() > Some(0) => Ok(()),
        None => Err("it wants no pods".to_owned()),
    }
}

fn load(cluster: &Cluster, archive: &Path) -> Result<()> {
    match cluster {
        Cluster::Lab(lab) => lab.load_image(archive),
        Cluster::Kind(name) => {
            let mut command = Command::new("kind");
            command.args(["load", "image-archive", "--name", name]).arg(archive);
            output(&mut command).map(drop).context("loading the image into the kind cluster")
        }
        // Its nodes have the image from a registry that the chart's values name.
        Cluster::Other(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_over_once_all_pods_are_of_the_present_template_and_ready() {
        let set = |ready: u32, observed: u32| {
            json!({"metadata": {"generation": 2}, "spec": {}, "status": {
                "observedGeneration": observed, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                "updatedNumberScheduled": 2, "numberReady": ready,
            }})
        };
        rolled_out(&set(2, 2)).unwrap();
        assert_eq!(rolled_out(&set(1, 2)).unwrap_err(), "numberReady is 1, should be 2");
        rolled_out(&set(2, 1)).unwrap_err();
        let deployment = |updated: u32| {
            json!({"metadata": {"generation": 1}, "spec": {"replicas": 2}, "status": {
                "observedGeneration": 1, "replicas": 2, "updatedReplicas": updated, "readyReplicas": 2,
            }})
        };
        rolled_out(&deployment(2)).unwrap();
        rolled_out(&deployment(1)).unwrap_err();
    }
}
