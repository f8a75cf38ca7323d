//! `cargo xtask bench`: measurements. They print; nothing fails for being slow, because numbers depend on the machine and
//! on who else uses it.

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::progress::Progress;
use crate::setup;
use crate::test::cargo_program;

/// What `cargo xtask bench` is asked to do.
#[derive(Args)]
pub struct Arguments {
    /// What is measured
    #[arg(value_enum)]
    what: What,
}

/// What can be measured.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The guard: nanoseconds a packet, floods, latencies
    Guard,
}

/// Measures.
pub fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    let (bench, features) = match arguments.what {
        What::Guard => ("guard", "netns"),
    };
    setup::host_packages(progress)?;
    let mut cargo = cargo_program();
    cargo.args(["bench", "--package", "holdfast-tests", "--features", features, "--bench", bench]);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the measurement of {bench} failed");
    Ok(())
}
