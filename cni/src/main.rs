//! The CNI plugin: one call, one request to the node's agent, one answer on stdout.
//!
//! ```text
//! CNI_* + stdin ─▶ call.rs ─▶ Invocation ─▶ client.rs ─▶ agent ─▶ AddResult | CniError ─▶ stdout
//! ```
//!
//! It keeps no state and decides nothing: a plugin that is exec'd once per verb has to start, ask and be gone.

#![forbid(unsafe_code)]

mod call;
mod client;

use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use holdfast_cni::{CniError, CniVersion, code};

use crate::call::Environment;

fn main() -> ExitCode {
    let argv0 = std::env::args().next().unwrap_or_default();
    let environment = Environment::from_process();
    let (output, exit) = match environment.command.as_deref() {
        None => return about(),
        Some("VERSION") => match read_stdin().and_then(|input| call::versions(&input)) {
            Ok(versions) => (versions, ExitCode::SUCCESS),
            Err(error) => (error.to_json(None), ExitCode::FAILURE),
        },
        Some(command) => run(command, &environment, &argv0),
    };
    print(&output, exit)
}

/// ADD, DEL, CHECK, STATUS and GC.
fn run(command: &str, environment: &Environment, argv0: &str) -> (String, ExitCode) {
    // The error object names the configuration's version as soon as that is known.
    let mut version = None;
    let outcome = read_stdin().and_then(|input| {
        let call = environment.call(command, &input, argv0, &mut version)?;
        let answer = client::ask(&call)?;
        call.render(&answer)
    });
    match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(version.map(CniVersion::as_str)), ExitCode::FAILURE),
    }
}

/// More than any configuration has; less than would hurt.
const MAX_CONFIG: u64 = 4 << 20;

fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_CONFIG + 1).read_to_end(&mut input);
    read.map_err(|error| CniError::new(code::IO, format!("reading the network configuration from stdin: {error}")))?;
    if input.len() as u64 > MAX_CONFIG {
        let msg = "failed to decode the network configuration: it has more than 4 MiB";
        return Err(CniError::new(code::DECODING, msg));
    }
    Ok(input)
}

/// Called by a person: say what this is, as the reference plugins do.
fn about() -> ExitCode {
    let text = format!(
        "CNI plugin holdfast v{}: sticky IP addresses for StatefulSets\nCNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        CniVersion::list()
    );
    // Nobody is there to be told that stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
    if io::stdin().is_terminal() {
        let _ = io::stderr().write_all(b"It is run by a container runtime, with CNI_COMMAND in its environment.\n");
    }
    ExitCode::SUCCESS
}

/// `println!` would panic on a closed stdout.
fn print(output: &str, exit: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{output}").and_then(|()| stdout.flush()) {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}
