//! The cache of built things: outside the checkout, each under the hash of its inputs.
//!
//! ```text
//! $HOLDFAST_CACHE | $XDG_CACHE_HOME/holdfast | ~/.cache/holdfast
//! ├── kubernetes-<key>/   complete, or not there: built beside and renamed
//! └── labs/<name>/        state of a laboratory
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress::Progress;

/// Returns the cache's folder.
pub fn root() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = set("HOLDFAST_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("holdfast")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/holdfast")))
        .context("none of HOLDFAST_CACHE, XDG_CACHE_HOME and HOME is set, so there is no place for the cache")?;
    fs::create_dir_all(&root).with_context(|| format!("creating the cache folder {}", root.display()))?;
    // Processes of the laboratory run elsewhere, so no path may depend on the folder this one runs in.
    fs::canonicalize(&root).with_context(|| format!("resolving {}", root.display()))
}

/// Returns a short name for `inputs`: sixteen hex digits of their hash.
pub fn key(inputs: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input);
    }
    hash.finalize().iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Returns the folder `<what>-<key>` of the cache, made by `build` if it does not exist.
///
/// `build` works in a folder of its own that becomes visible only when complete, and two callers do not build the same.
pub fn ensure(
    root: &Path,
    what: &str,
    key: &str,
    progress: &Progress,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let done = root.join(format!("{what}-{key}"));
    if done.exists() {
        return Ok(done);
    }
    let _lock = lock(&root.join(format!("{what}.lock")), &format!("the build of {what}"), progress)?;
    if done.exists() {
        return Ok(done);
    }
    let prefix = format!(".{what}-");
    remove_unfinished(root, &prefix)?;
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(root)?;
    build(folder.path())?;
    fs::rename(folder.path(), &done).with_context(|| format!("moving the finished build to {}", done.display()))?;
    // The folder no longer has its temporary name, so there is nothing left to remove.
    let _ = folder.keep();
    Ok(done)
}

/// Removes the files of killed builds, which take gigabytes. The caller holds the lock, so none of these builds still
/// runs.
fn remove_unfinished(root: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Locks `path` until the returned file is dropped; prints a message if another process holds the lock.
pub fn lock(path: &Path, what: &str, progress: &Progress) -> Result<File> {
    let file = File::create(path).with_context(|| format!("creating the lock {}", path.display()))?;
    if file.try_lock().is_err() {
        progress.log(format!("waiting for another process that holds {what} ({})", path.display()));
        file.lock().with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_where_one_input_ends() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"a"]).len(), 16);
    }

    #[test]
    fn what_a_killed_build_left_goes_with_the_next() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".part-killed")).unwrap();
        ensure(root.path(), "part", "1", &Progress::new(), |_| Ok(())).unwrap();
        assert!(!root.path().join(".part-killed").exists());
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_the_next_one_counts() {
        let root = tempfile::tempdir().unwrap();
        let progress = Progress::new();
        ensure(root.path(), "part", "1", &progress, |_| anyhow::bail!("broken")).unwrap_err();
        let made = ensure(root.path(), "part", "1", &progress, |folder| Ok(fs::write(folder.join("f"), "x")?)).unwrap();
        assert_eq!(fs::read_to_string(made.join("f")).unwrap(), "x");
        ensure(root.path(), "part", "1", &progress, |_| anyhow::bail!("not called again")).unwrap();
    }
}
