//! `cargo xtask demo`: a StatefulSet's pod keeps its address, shown on a real cluster.
//!
//! Everything printed as a fact is read back from the cluster; the demo ends with an error as soon as one is not as
//! promised.

mod scene;
mod steps;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::deploy;
use crate::lab::Lab;
use crate::progress::{Progress, output};
use crate::setup::{self, Release, VARIABLE};
use scene::Scene;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub struct Arguments {
    /// Leave the cluster up
    #[arg(long)]
    keep: bool,
    /// The laboratory's name
    #[arg(long, default_value = "demo")]
    name: String,
    /// The release of Kubernetes that the laboratory runs
    #[arg(long, value_enum, default_value_t, env = VARIABLE)]
    kubernetes: Release,
    /// Use this kind cluster, made if it is not there
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "holdfast", conflicts_with = "kubeconfig")]
    kind: Option<String>,
    /// Use the cluster of this kubeconfig; its nodes need the image holdfast:dev, or one given by --values
    #[arg(long, value_name = "FILE", requires = "pool")]
    kubeconfig: Option<PathBuf>,
    /// IPv4 pool outside the laboratory: `SUBNET=FIRST-LAST`, free addresses of the nodes' network
    #[arg(long, value_name = "SUBNET=RANGE")]
    pool: Option<String>,
    /// Values for the chart, as JSON
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
}

/// Brings a cluster up, installs holdfast, and shows what it does.
pub fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let cluster = cluster(arguments, progress)?;
    let outcome = show(arguments, &cluster, progress);
    if arguments.keep {
        progress.log("the cluster stays up (--keep)");
        if let Cluster::Lab(lab) = &cluster {
            progress.log(format!(
                "look around:  cargo xtask lab --name {} kubectl -- get se,sp,ipc -A",
                lab.description().name
            ));
            progress.log(format!("remove it:    cargo xtask lab --name {} down", lab.description().name));
        }
        return outcome;
    }
    if let Cluster::Lab(lab) = cluster {
        let down = lab.down(progress);
        return outcome.and(down);
    }
    outcome
}

fn show(arguments: &Arguments, cluster: &Cluster, progress: &Progress) -> Result<()> {
    deploy::install(cluster, &values(arguments)?, progress)?;
    cluster.prepare_shells(progress)?;
    cluster.apply(&pools(arguments)?)?;
    let mut scene = Scene::new(cluster, progress);
    steps::create(&mut scene)?;
    steps::restart_sandbox(&mut scene)?;
    steps::delete_pod(&mut scene)?;
    steps::move_pod(&mut scene)?;
    steps::stale_container(&mut scene)?;
    steps::delete_set(&mut scene)?;
    scene.finish();
    Ok(())
}

fn cluster(arguments: &Arguments, progress: &Progress) -> Result<Cluster> {
    if let Some(kubeconfig) = &arguments.kubeconfig {
        return Ok(Cluster::Other(kubeconfig.clone()));
    }
    if let Some(name) = &arguments.kind {
        let clusters = output(std::process::Command::new("kind").args(["get", "clusters"]))
            .context("kind is not installed, or Docker does not run")?;
        if !clusters.lines().any(|line| line == name) {
            let log = std::env::temp_dir().join("holdfast-kind.log");
            let mut create = std::process::Command::new("sh");
            let two_nodes = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking: {disableDefaultCNI: true}\n\
                             nodes: [{role: control-plane}, {role: worker}, {role: worker}]\n";
            create.args(["-c", &format!("printf '%s' '{two_nodes}' | kind create cluster --name {name} --config -")]);
            progress.run("creating the kind cluster", &mut create, &log)?;
        }
        return Ok(Cluster::Kind(name.clone()));
    }
    setup::laboratory(arguments.kubernetes, progress)?;
    Ok(Cluster::Lab(Lab::up(&arguments.name, arguments.kubernetes, progress)?))
}

fn values(arguments: &Arguments) -> Result<Value> {
    let Some(file) = &arguments.values else { return Ok(json!({})) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}

/// Returns the manifests of the pools: those on the laboratory's LAN, or the one that the user gives.
fn pools(arguments: &Arguments) -> Result<String> {
    let pool = |name: &str, spec: Value| json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": name}, "spec": spec});
    let mut items = Vec::new();
    if let Some(text) = &arguments.pool {
        let (subnet, range) = text
            .split_once('=')
            .context("--pool is SUBNET=FIRST-LAST, like 172.18.0.0/16=172.18.200.1-172.18.200.50")?;
        items.push(pool("default-v4-ippool", json!({"subnet": subnet, "ips": [range], "default": true})));
    } else {
        items.push(pool(
            "default-v4-ippool",
            json!({"subnet": "172.22.0.0/16", "ips": ["172.22.40.1-172.22.40.200"], "gateway": "172.22.0.1", "default": true}),
        ));
        items.push(pool(
            "default-v6-ippool",
            json!({"subnet": "fd00:22::/64", "ips": ["fd00:22::40:1-fd00:22::40:c8"], "gateway": "fd00:22::1", "default": true}),
        ));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
}
