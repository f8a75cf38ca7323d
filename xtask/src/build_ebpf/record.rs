//! The record of the committed object: its source and its toolchain.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::toolchain::Toolchain;

const FILE: &str = "RECORD.json";

/// The committed record, in a file beside the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The compiler, with its LLVM.
    pub rustc: String,
    /// The linker.
    pub bpf_linker: String,
    /// The program that stripped the debug information.
    pub objcopy: String,
    /// The hash of the sources, in the order of their names.
    pub source_sha256: String,
    /// The hash of the object.
    pub sha256: String,
}

impl Record {
    /// Returns the record of an object just made.
    pub(super) fn new(toolchain: &Toolchain, object: &[u8], source: &Path) -> Result<Self> {
        let [rustc, bpf_linker, objcopy] = toolchain.versions().map(str::to_owned);
        Ok(Self { rustc, bpf_linker, objcopy, source_sha256: source_hash(source)?, sha256: hash(object) })
    }

    /// Reads the record in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Returns whether the same versions made both: the same source then gives the same bytes.
    pub(super) fn same_toolchain(&self, other: &Self) -> bool {
        (&self.rustc, &self.bpf_linker, &self.objcopy) == (&other.rustc, &other.bpf_linker, &other.objcopy)
    }

    /// Returns the versions as text for messages.
    pub(super) fn toolchain(&self) -> String {
        format!("{}, {}, {}", self.rustc, self.bpf_linker, self.objcopy)
    }
}

/// Returns the paths of all sources of the object, sorted, relative to `folder`.
pub(super) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = ["Cargo.toml", "Cargo.lock", "abi/Cargo.toml"].map(PathBuf::from).into();
    for part in ["src", "abi/src"] {
        let list =
            fs::read_dir(folder.join(part)).with_context(|| format!("listing {part} of {}", folder.display()))?;
        for entry in list {
            files.push(Path::new(part).join(entry?.file_name()));
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn source_hash(folder: &Path) -> Result<String> {
    let mut all = Sha256::new();
    for file in sources(folder)? {
        let bytes = fs::read(folder.join(&file)).with_context(|| format!("reading {}", file.display()))?;
        all.update(file.as_os_str().as_encoded_bytes());
        all.update([0]);
        all.update(Sha256::digest(&bytes));
    }
    Ok(hex(&all.finalize()))
}

pub(super) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
