//! The laboratory's Kubernetes: one binary with every component, for each release that it can run.

use std::fmt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::go::Module;
use crate::cache;
use crate::progress::Progress;

/// To be raised when the recipe below changes in a way that its other inputs do not show.
const RECIPE: &str = "1";
const PROGRAM: &str = "kubernetes";
const MODULE: &str = "k8s.io/kubernetes";
const COMPONENTS: [&str; 7] =
    ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubeadm", "kubectl", "kubelet"];
/// The packages that hold a component's version.
const VERSIONED: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// A release of Kubernetes that the laboratory runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// The oldest supported one.
    #[value(name = "1.34")]
    Oldest,
    /// The newest one.
    #[default]
    #[value(name = "1.37")]
    Newest,
}

/// The variable through which a task tells the tests that it starts which release to run.
pub const VARIABLE: &str = "HOLDFAST_KUBERNETES";

impl Release {
    /// Returns the release that [`VARIABLE`] names, or else the newest.
    pub fn of_environment() -> Result<Self> {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return Ok(Self::default()) };
        let name = name.to_string_lossy();
        Self::from_str(&name, false).map_err(|error| anyhow::anyhow!("{VARIABLE}={name}: {error}"))
    }

    /// Returns the version, for example `v1.37.2`.
    pub fn version(self) -> Result<&'static str> {
        self.module().version(MODULE)
    }

    fn module(self) -> Module {
        let (versions, sums) = match self {
            Self::Oldest => {
                (include_str!("../../lab/kubernetes-1.34/go.mod"), include_str!("../../lab/kubernetes-1.34/go.sum"))
            }
            Self::Newest => {
                (include_str!("../../lab/kubernetes-1.37/go.mod"), include_str!("../../lab/kubernetes-1.37/go.sum"))
            }
        };
        Module {
            name: PROGRAM,
            versions,
            sums,
            package: ".",
            main: Some(include_str!("../../lab/kubernetes/main.go")),
            // Without the clouds' credential helpers.
            tags: "providerless",
            cgo: false,
        }
    }
}

impl fmt::Display for Release {
    /// Writes the name on the command line: the minor release.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Oldest => "1.34",
            Self::Newest => "1.37",
        })
    }
}

/// Returns the folder with the components of a release, built if need be.
pub(super) fn programs(root: &Path, release: Release, progress: &Progress) -> Result<PathBuf> {
    let module = release.module();
    let inputs = [vec![RECIPE.as_bytes()], module.inputs()].concat();
    cache::ensure(root, &format!("kubernetes-{release}"), &cache::key(&inputs), progress, |folder| {
        let version = release.version()?;
        progress.log(format!("Kubernetes {version} is not in the cache: building it, some 8 minutes on two cores"));
        let work = tempfile::tempdir_in(root)?;
        module.build(work.path(), folder, &version_variables(version)?, progress)?;
        for component in COMPONENTS {
            symlink(PROGRAM, folder.join(component))?;
        }
        Ok(())
    })
}

/// Returns the version that the components report: a module does not know its own.
fn version_variables(version: &str) -> Result<Vec<(String, String)>> {
    let minor = version.split('.').nth(1).with_context(|| format!("{version} has no minor version"))?;
    let values = [("gitVersion", version), ("gitMajor", "1"), ("gitMinor", minor), ("gitTreeState", "archive")];
    let variable = |package: &str, (name, value): (&str, &str)| (format!("{package}.{name}"), value.to_owned());
    Ok(VERSIONED.iter().flat_map(|package| values.map(|value| variable(package, value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_of_the_minor_version_that_names_it() {
        for release in Release::value_variants() {
            let version = release.version().unwrap();
            assert!(version.starts_with(&format!("v{release}.")), "{release} is {version}");
            assert_eq!(Release::from_str(&release.to_string(), false).unwrap(), *release);
        }
    }

    #[test]
    fn components_report_their_minor_version() {
        let variables = version_variables("v1.37.2").unwrap();
        assert!(variables.contains(&("k8s.io/component-base/version.gitMinor".to_owned(), "37".to_owned())));
    }
}
