//! `cargo xtask bench`: measurements. They print numbers and never fail for being slow, because numbers depend on the
//! machine and its load.

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cargo::cargo;
use crate::cluster::Cluster;
use crate::deploy;
use crate::lab::{self, Lab};
use crate::progress::Progress;
use crate::setup::{self, Release};

/// The arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct Arguments {
    /// The measurements to run
    #[arg(value_enum)]
    what: What,
    /// The laboratory's name, where one is needed; each checkout has its own
    #[arg(long, default_value_t = lab::of_checkout("bench"))]
    name: String,
    /// Leave the cluster up
    #[arg(long)]
    keep: bool,
}

/// The measurements.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The guard: nanoseconds per packet, floods, latencies; then its effects on a cluster
    Guard,
    /// Only the part of it that needs a cluster: corrected records, killed sandboxes, the agent's memory in a flood
    Cluster,
    /// ADD and DEL on an idle cluster, and their parts
    Add,
}

/// Runs the measurements.
pub fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    match arguments.what {
        What::Guard => {
            setup::debian_packages::install_host_packages(progress)?;
            measure("guard", "netns", None, &[])?;
            consequences(arguments, progress)
        }
        What::Cluster => consequences(arguments, progress),
        What::Add => on_cluster(arguments, &json!({}), &["verbs"], progress),
    }
}

/// The reactions to the guard's events.
fn consequences(arguments: &Arguments, progress: &Progress) -> Result<()> {
    // The agent logs the times of the runtime's calls at debug level.
    let values = json!({"spiderpoolAgent": {"logLevel": "info,holdfast_agent::server=debug"}});
    on_cluster(arguments, &values, &[], progress)
}

/// Brings a laboratory up, installs holdfast as a user would, and measures on it.
fn on_cluster(arguments: &Arguments, values: &Value, parts: &[&str], progress: &Progress) -> Result<()> {
    let release = Release::of_environment()?;
    setup::laboratory(release, progress)?;
    let lab = Cluster::Lab(Lab::recreate(&arguments.name, release, progress)?);
    let outcome = deploy::install(&lab, values, progress)
        .and_then(|()| measure("cluster", "cluster", Some(&arguments.name), parts));
    if !arguments.keep
        && let Cluster::Lab(lab) = lab
    {
        lab.down(progress)?;
    }
    outcome
}

/// Runs the tests' measurement `bench`.
fn measure(bench: &str, features: &str, lab: Option<&str>, parts: &[&str]) -> Result<()> {
    let mut cargo = cargo(&["bench", "--package", "holdfast-tests", "--features", features, "--bench", bench, "--"]);
    cargo.args(parts);
    cargo.envs(lab.map(|name| ("HOLDFAST_LAB_NAME", name)));
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the measurement of {bench} failed");
    Ok(())
}
