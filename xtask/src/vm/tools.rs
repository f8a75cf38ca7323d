//! The programs that virtual machines are made with.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache;
use crate::progress::Progress;
use crate::setup::apt::PrivateApt;

/// Debian packages that are fetched, with all that they depend on.
const PACKAGES: [&str; 2] = ["busybox-static", "qemu-system-x86"];

/// QEMU and busybox. Not those of this machine: its package of QEMU may be older than another one that
/// it would replace.
pub(super) struct Tools {
    pub(super) root: PathBuf,
    pub(super) busybox: PathBuf,
}

/// Fetches the tools, unless they are in the cache.
pub(super) fn fetch(progress: &Progress) -> Result<Tools> {
    let key = cache::key(&PACKAGES.map(str::as_bytes));
    let root = cache::ensure(&cache::root()?, "vm-tools", &key, progress, |folder| {
        let work = folder.join("work");
        fs::create_dir(&work)?;
        let apt = PrivateApt::new(&work.join("apt"), &work, progress)?;
        apt.unpack_closure(&PACKAGES, folder, progress)?;
        Ok(fs::remove_dir_all(work)?)
    })?;
    Ok(Tools { busybox: root.join("bin/busybox"), root })
}
