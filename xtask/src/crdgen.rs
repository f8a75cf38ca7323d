//! `cargo xtask crdgen`: the kinds' manifests, from the Rust types into the chart.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::deploy;

/// Writes the manifests.
pub fn run() -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["run", "--quiet", "--package", "holdfast-api", "--example", "crdgen", "--"])
        .arg(deploy::chart().join("crds"));
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the manifests were not written: {status}");
    Ok(())
}
