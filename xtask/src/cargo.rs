//! Commands of cargo.

use std::process::Command;

/// Returns a command of the cargo that runs this program, so that all is built by the same toolchain.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}
