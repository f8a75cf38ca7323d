//! From anything back to nothing: processes, cgroups, network namespaces, files. Mounts go with the last process that sees them.

use std::fs;

use anyhow::{Context, Result};

use super::cgroup::Cgroup;
use super::layout::{CP, Layout, NODES};
use super::network;
use crate::progress::Progress;

/// Removes the laboratory. The caller holds the lock.
pub(super) fn down(layout: &Layout, progress: &Progress) -> Result<()> {
    clear(layout, progress)?;
    progress.log(format!("the laboratory {} is gone", layout.name));
    Ok(())
}

/// Removes everything that exists, also the remains of a failed start. The caller holds the lock.
///
/// Only what is in the laboratory's own cgroups is killed: nothing gets there but what it started, and its children.
pub(super) fn clear(layout: &Layout, progress: &Progress) -> Result<()> {
    let mut cgroups = Vec::new();
    for place in NODES.into_iter().chain([CP]) {
        cgroups.push(Cgroup::new(&layout.label(place))?);
    }
    for cgroup in &cgroups {
        cgroup.kill(progress)?;
    }
    for cgroup in &cgroups {
        cgroup.remove(progress)?;
    }
    network::remove(layout)?;
    match fs::remove_dir_all(&layout.state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", layout.state.display()))
        }
        _ => Ok(()),
    }
}
