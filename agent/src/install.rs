//! The files on the node besides the agent: the plugin under its two names, and the runtime's network configuration.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::json;

/// The names that the plugin is called by: main plugin and IPAM delegate.
const PLUGIN_NAMES: [&str; 2] = ["holdfast", "spiderpool"];

/// A file that could not be put in its place.
#[derive(Debug, thiserror::Error)]
#[error("cannot install {path}: {source}")]
pub struct InstallError {
    path: PathBuf,
    source: io::Error,
}

/// Copies the plugin's binary into the runtime's plugin folder.
pub fn plugin(binary: &Path, folder: &Path) -> Result<(), InstallError> {
    let content = fs::read(binary).map_err(|source| InstallError { path: binary.to_owned(), source })?;
    PLUGIN_NAMES.into_iter().try_for_each(|name| put(&folder.join(name), &content, 0o755))
}

/// Writes the network configuration. The runtime takes the node as ready from then on, so the agent has to serve first.
pub fn configuration(folder: &Path, name: &str, socket: &Path) -> Result<(), InstallError> {
    let conf = json!({
        "cniVersion": "1.0.0",
        "name": "holdfast",
        "plugins": [{"type": "holdfast", "mode": "veth", "ipam_unix_socket_path": socket}],
    });
    put(&folder.join(name), format!("{conf:#}\n").as_bytes(), 0o644)
}

/// Replaces a file in one step: a runtime that reads it at the same time sees the old one or the new one.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    let wrong = |source| InstallError { path: path.to_owned(), source };
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // A leading dot keeps the runtime from reading it as a configuration.
    let temporary = path.with_file_name(format!(".{name}.new"));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(wrong)?;
    }
    fs::write(&temporary, content).map_err(wrong)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(wrong)?;
    fs::rename(&temporary, path).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_stands_under_both_names() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("image");
        fs::write(&binary, "binary").unwrap();
        let bin = folder.path().join("opt/cni/bin");
        for _ in 0..2 {
            plugin(&binary, &bin).unwrap();
        }
        for name in PLUGIN_NAMES {
            assert_eq!(fs::read(bin.join(name)).unwrap(), b"binary");
            assert_eq!(fs::metadata(bin.join(name)).unwrap().permissions().mode() & 0o777, 0o755);
        }
        let error = plugin(&folder.path().join("missing"), &bin).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }

    #[test]
    fn the_configuration_names_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        configuration(folder.path(), "10-holdfast.conflist", Path::new("/run/a.sock")).unwrap();
        let text = fs::read(folder.path().join("10-holdfast.conflist")).unwrap();
        let conf: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(conf["plugins"][0]["ipam_unix_socket_path"], "/run/a.sock");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    }
}
