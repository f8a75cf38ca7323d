//! Commands in the network namespaces of the laboratory's places.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use super::layout::{CP, Layout, Place};

/// Returns a kubectl command for the laboratory.
pub(super) fn kubectl(layout: &Layout, programs: &Path) -> Command {
    let mut command = in_netns(layout, CP, &[programs.join("kubectl")]);
    command.arg("--kubeconfig").arg(layout.kubeconfig());
    // The usual folder is shared by all clusters at one address, and every laboratory has the same.
    command.arg("--cache-dir").arg(layout.state.join("kubectl-cache"));
    command
}

/// Returns a command in the network namespace of a place.
pub(super) fn in_netns<S: AsRef<OsStr>>(layout: &Layout, place: Place, arguments: &[S]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", layout.netns(place).display())).arg("--").args(arguments);
    command
}
