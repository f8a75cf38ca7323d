//! Debian packages of this machine: installed where they are missing.

use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::progress::{Progress, output};

/// Debian packages that tasks and tests call by name on this machine.
const HOST_PACKAGES: [&str; 11] = [
    "gcc",
    "iproute2",
    "iptables",
    "iputils-arping",
    "iputils-ping",
    "libc6-dev",
    // runc's filters of system calls.
    "libseccomp-dev",
    "nftables",
    "pkg-config",
    "util-linux",
    "xz-utils",
];

/// Installs the programs that tasks and tests call by name.
pub(crate) fn install_host_packages(progress: &Progress) -> Result<()> {
    install(&HOST_PACKAGES, progress)
}

/// Installs those of the Debian packages that are missing.
pub(crate) fn install(wanted: &[&'static str], progress: &Progress) -> Result<()> {
    if missing(wanted).is_empty() {
        progress.log("Debian packages: all there");
        return Ok(());
    }
    let root = cache::root()?;
    // apt refuses the second of two that read the package lists at once.
    let _lock = cache::lock(&root.join("apt-get.lock"), "the installation of packages", progress)?;
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let log = root.join("apt-get.log");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
        command
    };
    progress.run("updating the package lists", &mut apt(&["update"]), &log)?;
    let arguments = [&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat();
    progress
        .run(&format!("installing {}", missing.join(" ")), &mut apt(&arguments), &log)
        .context("installing Debian packages needs root, Debian and a reachable package archive")
}

fn missing(wanted: &[&'static str]) -> Vec<&'static str> {
    let installed = |package: &&str| {
        // Fails for an unknown package, which is missing as well.
        let state = output(Command::new("dpkg-query").args(["-W", "-f=${Status}", package])).unwrap_or_default();
        state == "install ok installed"
    };
    wanted.iter().copied().filter(|package| !installed(package)).collect()
}
