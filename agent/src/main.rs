//! holdfast's agent and controller: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use holdfast_agent::{
    config::{Cli, Role},
    run, telemetry,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let common = match &cli.role {
        Role::Agent(args) => &args.common,
        Role::Controller(args) => &args.common,
    };
    let outcome = telemetry::init(&common.log).and_then(|()| match &cli.role {
        Role::Agent(args) => run::block_on(run::agent(args)),
        Role::Controller(args) => run::block_on(run::controller(args)),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
