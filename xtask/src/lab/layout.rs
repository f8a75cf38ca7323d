//! Names, folders and addresses: everything that must not collide between two laboratories, or between one and the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cache;
use crate::progress::Progress;

/// The default name of a laboratory.
pub const DEFAULT: &str = "lab";
/// The API server's port, on the control plane's address.
pub(super) const API_PORT: u16 = 6443;
/// The addresses of Services, which kube-proxy translates on the nodes.
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The first of [`SERVICES`], which Kubernetes gives to its own API.
pub(super) const API_SERVICE: &str = "10.96.0.1";
/// Prefix lengths of the LAN, 172.22.0.0/16 and `fd00:22::/64`.
pub(super) const PREFIX4: u8 = 16;
pub(super) const PREFIX6: u8 = 64;

/// A network namespace with an address on the LAN, and maybe processes of ours in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) ip: &'static str,
    pub(super) ip6: &'static str,
}

/// The control plane: switch and gateway too.
pub(super) const CP: Place = Place { name: "cp", ip: "172.22.0.1", ip6: "fd00:22::1" };
/// The nodes.
pub(super) const NODES: [Place; 2] = [
    Place { name: "node1", ip: "172.22.0.11", ip6: "fd00:22::11" },
    Place { name: "node2", ip: "172.22.0.12", ip6: "fd00:22::12" },
];
/// A host on the LAN.
pub(super) const LAN: Place = Place { name: "lan", ip: "172.22.0.100", ip6: "fd00:22::100" };

/// The folders and names of one laboratory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The laboratory's name.
    pub(super) name: String,
    /// Its folder in the cache.
    pub(super) state: PathBuf,
    prefix: String,
}

impl Layout {
    /// Returns the layout of the laboratory `name`. Names on this machine carry a hash of the folder: another cache,
    /// other names.
    pub(super) fn new(name: &str) -> Result<Self> {
        let fits = !name.is_empty() && name.len() <= 20;
        ensure!(
            fits && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "`{name}` cannot be a laboratory's name: use 1 to 20 of a-z, 0-9 and -"
        );
        let state = labs()?.join(name);
        let tag = cache::key(&[state.as_os_str().as_encoded_bytes()]);
        Ok(Self { name: name.to_owned(), prefix: format!("hf-{name}-{}", &tag[..4]), state })
    }

    /// Returns the name of a place's network namespace and cgroup.
    pub(super) fn label(&self, place: Place) -> String {
        format!("{}-{}", self.prefix, place.name)
    }

    /// Returns a place's network namespace.
    pub(super) fn netns(&self, place: Place) -> PathBuf {
        Path::new("/run/netns").join(self.label(place))
    }

    /// Returns the folder with a place's logs, process records and files.
    pub(super) fn folder(&self, place: Place) -> PathBuf {
        self.state.join(place.name)
    }

    /// Returns the folder with a place's logs.
    pub(super) fn logs(&self, place: Place) -> PathBuf {
        self.folder(place).join("log")
    }

    /// Returns the folder with keys, certificates and kubeconfigs.
    pub(super) fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// Returns the administrator's kubeconfig.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.pki().join("admin.kubeconfig")
    }

    /// Locks the laboratory until the returned file is dropped; waits for another process that holds the lock.
    pub(super) fn lock(&self, progress: &Progress) -> Result<File> {
        let labs = labs()?;
        fs::create_dir_all(&labs).with_context(|| format!("creating {}", labs.display()))?;
        cache::lock(&self.lock_file(), &format!("the laboratory {}", self.name), progress)
    }

    /// Returns true if there may be anything to remove. The cache may have been emptied under a laboratory that is up.
    pub(super) fn may_be_there(&self) -> bool {
        self.lock_file().exists() || self.netns(CP).exists()
    }

    /// Returns the command line for this laboratory, without the action.
    pub(super) fn command(&self) -> String {
        let name = if self.name == DEFAULT { String::new() } else { format!(" --name {}", self.name) };
        format!("cargo xtask lab{name}")
    }

    /// The lock file stands beside the state, which goes with the laboratory: all waiters must lock the same file.
    fn lock_file(&self) -> PathBuf {
        self.state.with_extension("lock")
    }
}

/// Returns a laboratory's name for this checkout alone, so that tests of several checkouts run side by side.
pub fn of_checkout(what: &str) -> String {
    format!("{what}-{}", &cache::key(&[env!("CARGO_MANIFEST_DIR").as_bytes()])[..6])
}

/// Returns the names of the existing laboratories, if there are any.
pub(super) fn present() -> Option<String> {
    let folders = fs::read_dir(labs().ok()?).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Returns the folder with the state of all laboratories.
fn labs() -> Result<PathBuf> {
    Ok(cache::root()?.join("labs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for name in ["", "../x", "a/b", "A", "a.b", "twenty-one-characters"] {
            assert!(Layout::new(name).is_err(), "{name}");
        }
        let layout = Layout::new("lab").unwrap();
        assert!(layout.label(CP).starts_with("hf-lab-") && layout.label(CP).ends_with("-cp"));
    }

    #[test]
    fn a_checkouts_own_name_is_a_name() {
        let name = of_checkout("selftest");
        assert_eq!(Layout::new(&name).unwrap().command(), format!("cargo xtask lab --name {name}"));
        assert_eq!(name, of_checkout("selftest"));
    }
}
