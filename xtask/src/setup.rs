//! `cargo xtask setup`: installs and builds what a new machine lacks.

pub(crate) mod apt;
pub(crate) mod debian_packages;
mod go;
mod kubernetes;
mod runtime;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use self::kubernetes::{Release, VARIABLE};
use crate::progress::Progress;
use crate::{build_ebpf, cache, helm};

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

/// Installs and builds what the laboratory and an installation on it need.
pub fn laboratory(release: Release, progress: &Progress) -> Result<()> {
    debian_packages::install_host_packages(progress)?;
    let parts = parts(release, progress)?;
    progress.log(format!("laboratory parts for Kubernetes {}: {}", release.version()?, parts.display()));
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

/// Makes a hard link in the folder `to` for every file of the folder `from`. A node sees this folder only, so symbolic
/// links to another would dangle.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let name = to.join(entry.file_name());
        fs::hard_link(entry.path(), &name).with_context(|| format!("linking {}", name.display()))?;
    }
    Ok(())
}
