//! `cargo xtask bench`: measurements. They print; nothing fails for being slow, because numbers depend on the machine and
//! on who else uses it.

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
    /// The guard: nanoseconds a packet, floods, latencies; then what it leads to on a cluster
    Guard,
    /// Of that only what needs a cluster: records corrected, killed sandboxes noticed, the agent's memory under a flood
    Cluster,
    /// On an idle cluster: ADD and DEL, beside what they are made of
    Add,
}

/// Measures.
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
    // The times of the runtime's calls stand in the agent's log.
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
