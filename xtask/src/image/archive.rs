//! The archive's format: one layer, a configuration, a manifest. No time, owner or order of the machine goes into it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

/// The files of an image, as a tar in memory: some megabytes.
pub(super) struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Layer {
    /// Returns a layer with the folders that a runtime mounts onto.
    pub(super) fn new() -> Result<Self> {
        let mut layer = Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() };
        for name in ["dev", "etc", "proc", "sys"] {
            layer.folder(name, 0o755)?;
        }
        Ok(layer)
    }

    /// Adds a program of this machine under `place`, a path without a slash in front.
    pub(super) fn program(&mut self, source: &Path, place: &str) -> Result<()> {
        let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        self.parents(place)?;
        self.append(place, &bytes, EntryType::Regular, 0o755)
    }

    /// Adds a file with this text.
    pub(super) fn text(&mut self, text: &str, place: &str) -> Result<()> {
        self.parents(place)?;
        self.append(place, text.as_bytes(), EntryType::Regular, 0o644)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, to: &str, place: &str) -> Result<()> {
        self.parents(place)?;
        let mut header = header(EntryType::Symlink, 0, 0o777);
        self.tar.append_link(&mut header, place, to).with_context(|| format!("adding the link {place}"))
    }

    /// Adds an empty folder.
    pub(super) fn folder(&mut self, place: &str, mode: u32) -> Result<()> {
        if self.folders.insert(place.to_owned()) {
            self.append(&format!("{place}/"), &[], EntryType::Directory, mode)?;
        }
        Ok(())
    }

    fn parents(&mut self, place: &str) -> Result<()> {
        for (end, _) in place.match_indices('/') {
            self.folder(&place[..end], 0o755)?;
        }
        Ok(())
    }

    fn append(&mut self, place: &str, bytes: &[u8], kind: EntryType, mode: u32) -> Result<()> {
        let mut header = header(kind, bytes.len() as u64, mode);
        self.tar.append_data(&mut header, place, bytes).with_context(|| format!("adding {place}"))
    }
}

/// The configuration of an image.
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    pub(super) entrypoint: Option<&'a str>,
    pub(super) environment: BTreeMap<&'a str, &'a str>,
}

impl Image<'_> {
    /// Writes the image as an archive that `ctr images import` and `docker load` read.
    pub(super) fn write(&self, layer: Layer, archive: &Path) -> Result<()> {
        let layer = layer.tar.into_inner()?;
        let environment: Vec<String> = self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let entrypoint: Option<Vec<&str>> = self.entrypoint.map(|program| vec![program]);
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Entrypoint": entrypoint, "Env": environment },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
            "history": [{ "created_by": "holdfast" }],
        })
        .to_string();
        let config_name = format!("{}.json", sha256(config.as_bytes()));
        let manifest = json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"] }]).to_string();

        // A file of its own: another run may be writing the same image.
        let folder = archive.parent().context("an archive is in a folder")?;
        let unfinished = NamedTempFile::new_in(folder).with_context(|| format!("creating {}", archive.display()))?;
        let mut tar = Builder::new(unfinished.as_file());
        for (name, bytes) in
            [("manifest.json", manifest.as_bytes()), (config_name.as_str(), config.as_bytes()), ("layer.tar", &layer)]
        {
            let mut header = header(EntryType::Regular, bytes.len() as u64, 0o644);
            tar.append_data(&mut header, name, bytes)?;
        }
        tar.finish()?;
        drop(tar);
        unfinished.persist(archive).map(drop).with_context(|| format!("writing {}", archive.display()))
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(folder: &Path, name: &str) -> Vec<u8> {
        let mut layer = Layer::new().unwrap();
        layer.text("hello\n", "a/b/hello").unwrap();
        layer.link("hello", "a/b/other").unwrap();
        let path = folder.join(name);
        let image = Image { name: "test:1", entrypoint: Some("/a"), environment: BTreeMap::from([("A", "b")]) };
        image.write(layer, &path).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(archive(folder.path(), "one.tar"), archive(folder.path(), "two.tar"));
    }

    #[test]
    fn the_manifest_names_what_is_in_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(folder.path(), "image.tar");
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names[0], "manifest.json");
        assert_eq!(names[2], "layer.tar");
        assert!(String::from_utf8_lossy(&bytes).contains(&format!("\"Config\":\"{}\"", names[1])));
    }
}
