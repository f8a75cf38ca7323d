//! The CNI plugin: each execution sends one request to the node's agent and prints the response on stdout.
//!
//! ```text
//! CNI_* + stdin ─▶ request.rs ─▶ Invocation ─▶ client.rs ─▶ agent ─▶ AddResult | CniError ─▶ stdout
//! ```
//!
//! The plugin has no state and makes no decisions: the runtime executes it once per verb, so it has to be fast.

#![forbid(unsafe_code)]

mod client;
mod environment;
mod input;
mod request;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use holdfast_cni::CniVersion;

use crate::{environment::Environment, request::Request};

fn main() -> ExitCode {
    let argv0 = std::env::args().next().unwrap_or_default();
    let environment = Environment::from_process();
    let (output, exit) = match environment.command.as_deref() {
        None => return about(),
        Some("VERSION") => match input::read().and_then(|input| input::versions(&input)) {
            Ok(versions) => (versions, ExitCode::SUCCESS),
            Err(error) => (error.to_json(CniVersion::NEWEST.as_str()), ExitCode::FAILURE),
        },
        Some(command) => run(command, &environment, &argv0),
    };
    print(&output, exit)
}

/// Runs ADD, DEL, CHECK, STATUS or GC.
fn run(command: &str, environment: &Environment, argv0: &str) -> (String, ExitCode) {
    // The version of the error object: the newest until the configuration's is known.
    let mut version = None;
    let outcome = input::read().and_then(|input| {
        let request = Request::new(command, environment, &input, argv0, &mut version)?;
        let body = client::send(&request)?;
        request.render(&body)
    });
    match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(version.unwrap_or(CniVersion::NEWEST).as_str()), ExitCode::FAILURE),
    }
}

/// Prints the plugin's name and versions on stderr, as the reference plugins do without `CNI_COMMAND`.
fn about() -> ExitCode {
    let text = format!(
        "CNI plugin holdfast v{}: sticky IP addresses for StatefulSets\nCNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        CniVersion::list()
    );
    // A closed stderr leaves no way to report the error.
    let _ = io::stderr().write_all(text.as_bytes());
    if io::stdin().is_terminal() {
        let _ =
            io::stderr().write_all(b"A container runtime executes this plugin, with CNI_COMMAND in its environment.\n");
    }
    ExitCode::SUCCESS
}

/// Prints the output on stdout. `println!` would panic on a closed stdout.
fn print(output: &str, exit: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{output}").and_then(|()| stdout.flush()) {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}
