//! The project's tasks: `cargo xtask <task>`. One file each.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::progress::Progress;
use xtask::{bench, build_ebpf, crdgen, demo, image, lab_command, setup, test};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "holdfast's developer tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install and build what the project needs on a new machine
    Setup(setup::Arguments),
    /// A Kubernetes with two nodes on this machine
    Lab(lab_command::Arguments),
    /// Build the image holdfast:dev
    Image,
    /// Compile the guard's eBPF programs into the object that the agent embeds
    BuildEbpf(build_ebpf::Arguments),
    /// Write the kinds' manifests into the chart
    Crdgen,
    /// Show on a real cluster what holdfast does
    Demo(demo::Arguments),
    /// Run every suite, or some
    Test(test::Arguments),
    /// Measure
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    // The text of an error is for the person at the terminal; a backtrace of a task says nothing to them.
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    match cli.task {
        Task::Setup(arguments) => setup::run(arguments.kubernetes, &progress)?,
        Task::Lab(arguments) => return lab_command::run(arguments, &progress),
        Task::Crdgen => crdgen::run()?,
        Task::Demo(arguments) => demo::run(&arguments, &progress)?,
        Task::Test(arguments) => test::run(&arguments, &progress)?,
        Task::Bench(arguments) => bench::run(&arguments, &progress)?,
        Task::BuildEbpf(arguments) => build_ebpf::run(&arguments, &progress)?,
        Task::Image => image::holdfast(&progress).map(drop)?,
    }
    Ok(ExitCode::SUCCESS)
}
