//! `cargo xtask setup`: everything a new machine needs, once; on a machine that has it, a look and nothing more.

pub(crate) mod apt;
mod kubernetes;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::{Progress, output};
use crate::{build_ebpf, cache, helm};

/// Debian packages that tasks and tests call by name on this machine.
const HOST_PACKAGES: [&str; 7] =
    ["dpkg-dev", "gcc", "iproute2", "iputils-arping", "iputils-ping", "libc6-dev", "util-linux"];

/// Installs what is missing, builds the laboratory's parts and the toolchain for eBPF.
pub fn run(progress: &Progress) -> Result<()> {
    laboratory(progress)?;
    build_ebpf::setup(progress)
}

/// What the laboratory and an installation on it need.
pub fn laboratory(progress: &Progress) -> Result<()> {
    host_packages(progress)?;
    let parts = parts(progress)?;
    progress.say(format!("laboratory parts: {}", parts.display()));
    helm::setup(progress)
}

/// The folder with the laboratory's programs (`bin/`), reference CNI plugins (`cni/`) and images (`images/`); built if need be.
pub fn parts(progress: &Progress) -> Result<PathBuf> {
    let root = cache::root()?;
    cache::ensure(&root, "kubernetes", &kubernetes::key(), progress, |folder| {
        progress.say("the laboratory's Kubernetes is not in the cache: building it, some 5 minutes on two cores");
        host_packages(progress)?;
        kubernetes::build(folder, progress)
    })
}

/// Programs that tasks and tests call by name.
pub(crate) fn host_packages(progress: &Progress) -> Result<()> {
    packages(&HOST_PACKAGES, progress)
}

/// Installs those of the Debian packages that are missing.
pub(crate) fn packages(wanted: &[&'static str], progress: &Progress) -> Result<()> {
    if missing(wanted).is_empty() {
        progress.say("Debian packages: all there");
        return Ok(());
    }
    let root = cache::root()?;
    // Of two that read the package lists at once apt turns one away.
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
    let install = [&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat();
    progress
        .run(&format!("installing {}", missing.join(" ")), &mut apt(&install), &log)
        .context("installing Debian packages needs root, Debian and a reachable package archive")
}

fn missing(wanted: &[&'static str]) -> Vec<&'static str> {
    let installed = |package: &&str| {
        // Fails for a package that was never heard of, which is the same as missing.
        let state = output(Command::new("dpkg-query").args(["-W", "-f=${Status}", package])).unwrap_or_default();
        state == "install ok installed"
    };
    wanted.iter().copied().filter(|package| !installed(package)).collect()
}
