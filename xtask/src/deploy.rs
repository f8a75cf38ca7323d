//! Installing holdfast on a cluster, as a user would: the chart's kinds, then its manifests, then wait for the nodes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::progress::{Progress, output};
use crate::{helm, image};

/// Where holdfast's own pods are.
pub const NAMESPACE: &str = "kube-system";

const ROLLOUT: Duration = Duration::from_secs(180);

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/holdfast")
}

/// Builds the image, makes the nodes know it, and installs the chart with `values` on top of its own.
pub fn install(cluster: &Cluster, values: Value, progress: &Progress) -> Result<()> {
    let archive = image::holdfast(progress)?;
    load(cluster, &archive)?;
    install_loaded(cluster, values, progress)
}

/// Installs the chart; the nodes have the image already.
pub fn install_loaded(cluster: &Cluster, values: Value, progress: &Progress) -> Result<()> {
    progress.say("installing the chart");
    let kinds = chart().join("crds");
    cluster.run(&["apply", "-f", kinds.to_str().context("the chart's path is not text")?])?;
    cluster.run(&["wait", "--for=condition=Established", "crd", "--timeout=60s", "--all"])?;
    let manifests = helm::template(&chart(), NAMESPACE, &with_api_server(cluster, values), progress)?;
    cluster.apply(&manifests)?;
    wait_ready(cluster, progress)
}

/// Waits until every node has a serving agent and says that it is ready.
pub fn wait_ready(cluster: &Cluster, progress: &Progress) -> Result<()> {
    let agents = ["-n", NAMESPACE, "daemonset", "holdfast-agent"];
    cluster.wait_for(progress, "the agents", &agents, ROLLOUT, |set| {
        let status = &set.ok_or("there is no DaemonSet")?["status"];
        let (wanted, ready) = (&status["desiredNumberScheduled"], &status["numberReady"]);
        let settled = wanted == ready && wanted.as_u64() > Some(0);
        if settled { Ok(()) } else { Err(format!("{ready} of {wanted} are ready")) }
    })?;
    let controller = ["-n", NAMESPACE, "deployment", "holdfast-controller"];
    cluster.wait_for(progress, "the controller", &controller, ROLLOUT, |deployment| {
        let status = &deployment.ok_or("there is no Deployment")?["status"];
        if status["readyReplicas"].as_u64() >= Some(1) { Ok(()) } else { Err("it is not ready".to_owned()) }
    })?;
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

/// In the laboratory no service proxy runs: the agents are told the API server's own address.
fn with_api_server(cluster: &Cluster, mut values: Value) -> Value {
    if let Cluster::Lab(_) = cluster {
        values["apiServer"] = json!({"host": "172.22.0.1", "port": 6443});
    }
    values
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
