//! `cargo xtask setup`: everything a new machine needs, once; on a machine that has it, a look and nothing more.

pub(crate) mod apt;
mod go;
mod kubernetes;
mod runtime;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use self::kubernetes::{Release, VARIABLE};
use crate::progress::{Progress, output};
use crate::{build_ebpf, cache, helm};

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

/// Options of `cargo xtask setup`.
#[derive(Args)]
pub struct Arguments {
    /// The release of Kubernetes that the laboratory is to run
    #[arg(long, value_enum, default_value_t, env = VARIABLE)]
    pub kubernetes: Release,
}

/// Installs what is missing, builds the laboratory's parts and the toolchain for eBPF.
pub fn run(release: Release, progress: &Progress) -> Result<()> {
    laboratory(release, progress)?;
    build_ebpf::setup(progress)
}

/// What the laboratory and an installation on it need.
pub fn laboratory(release: Release, progress: &Progress) -> Result<()> {
    host_packages(progress)?;
    let parts = parts(release, progress)?;
    progress.say(format!("laboratory parts for Kubernetes {}: {}", release.version()?, parts.display()));
    helm::setup(progress)
}

/// Returns the folder with the laboratory's programs (`bin/`), reference CNI plugins (`cni/`) and images (`images/`) for a
/// release of Kubernetes, built if need be.
pub fn parts(release: Release, progress: &Progress) -> Result<PathBuf> {
    let architecture = std::env::consts::ARCH;
    ensure!(architecture == "x86_64", "the laboratory is built for x86_64 only, and this machine is {architecture}");
    let root = cache::root()?;
    let kubernetes = kubernetes::programs(&root, release, progress)?;
    let runtime = runtime::programs(&root, progress)?;
    let made_of = [&kubernetes, &runtime].map(|folder| folder.as_os_str().as_encoded_bytes());
    cache::ensure(&root, &format!("laboratory-{release}"), &cache::key(&made_of), progress, |folder| {
        link(&kubernetes, &folder.join("bin"))?;
        for part in ["bin", "cni", "images"] {
            link(&runtime.join(part), &folder.join(part))?;
        }
        Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?)
    })
}

/// Gives every file of the folder `from` another name in the folder `to`. A node sees the one folder and no other, so that
/// symbolic links to another would end nowhere.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let name = to.join(entry.file_name());
        fs::hard_link(entry.path(), &name).with_context(|| format!("linking {}", name.display()))?;
    }
    Ok(())
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
