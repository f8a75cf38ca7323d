//! The folder of bpffs, and the names in it.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use holdfast_core::id::IfIndex;
use nix::{
    mount::MsFlags,
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use parking_lot::Mutex;

use crate::error::DatapathError;

/// The place where distributions mount bpffs.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Pin of programs that see what comes from a pod or the LAN.
pub(super) const INGRESS: &str = "in";
/// Pin of programs that see what goes to a pod.
pub(super) const EGRESS: &str = "out";

/// Pin of the tracepoint that sees sandboxes end.
pub(super) const SANDBOX_EXIT: &str = "sandbox_exit";

/// Returns the name in the pins of a link inside a pod; its interface's name repeats from pod to pod.
pub(super) fn pod_netns_name(link: IfIndex) -> String {
    format!("pod-{:08x}", link.0)
}

/// The folders that everything is pinned in.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the folders, and mounts bpffs at its usual place if it is not there.
    pub(super) fn open(root: &Path) -> Result<Self, DatapathError> {
        ensure_bpffs(root)?;
        let pins = Self { root: root.to_owned() };
        for folder in [pins.maps(), pins.links()] {
            fs::create_dir_all(&folder).map_err(file_error(&folder))?;
        }
        Ok(pins)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Returns the pin of the program on one side of an interface. bpffs refuses dots in names; interfaces may have them.
    pub(super) fn link(&self, name: &str, side: &str) -> PathBuf {
        self.links().join(format!("{}:{side}", name.replace('%', "%25").replace('.', "%2e")))
    }

    /// Removes both pins of an interface, which detaches its programs. No error if they are not there.
    pub(super) fn remove_link(&self, name: &str) -> Result<(), DatapathError> {
        [INGRESS, EGRESS].map(|side| remove(&self.link(name, side))).into_iter().fold(Ok(()), Result::and)
    }

    /// Returns the names in `links/`.
    pub(super) fn link_pins(&self) -> Result<Vec<OsString>, DatapathError> {
        let folder = self.links();
        let entries = fs::read_dir(&folder).map_err(file_error(&folder))?;
        entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(file_error(&folder))).collect()
    }
}

/// Removes a pin that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn file_error(path: &Path) -> impl Fn(io::Error) -> DatapathError + use<'_> {
    move |source| DatapathError::File { path: path.to_owned(), source }
}

fn ensure_bpffs(root: &Path) -> Result<(), DatapathError> {
    // A second mount at the same place would hide the pins of the first.
    static MOUNTING: Mutex<()> = Mutex::new(());
    let _mounting = MOUNTING.lock();
    if on_bpffs(root)? {
        return Ok(());
    }
    if !root.starts_with(MOUNT_POINT) {
        return Err(DatapathError::NotBpffs { path: root.to_owned() });
    }
    tracing::info!("mounting a BPF file system at {MOUNT_POINT}");
    nix::mount::mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|error| file_error(Path::new(MOUNT_POINT))(error.into()))
}

/// Returns whether the folder is, or would be made, on a BPF file system.
fn on_bpffs(root: &Path) -> Result<bool, DatapathError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = statfs(existing).map_err(|error| file_error(existing)(error.into()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_no_dots() {
        let pins = Pins { root: "/bpf".into() };
        assert_eq!(pins.link("eth0.100", INGRESS), Path::new("/bpf/links/eth0%2e100:in"));
        assert_ne!(pins.link("a%2eb", EGRESS), pins.link("a.b", EGRESS));
    }

    #[test]
    fn a_folder_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::open(&folder.path().join("guard")).unwrap_err();
        assert!(matches!(error, DatapathError::NotBpffs { .. }), "{error}");
    }
}
