//! A place's cgroup: every process that the laboratory starts is in it or below it, so the processes to kill are known.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress::{Poll, Progress};

const MOUNT: &str = "/sys/fs/cgroup";
/// The leaf for processes that are not pods'; a cgroup with children holds no processes itself in version 2.
const LEAF: &str = "system";
/// The time until killed processes are gone: at once, unless the kernel is busy freeing namespaces.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A cgroup of one name in every hierarchy of version 1, or in the only one of version 2.
pub(super) struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Returns the cgroup called `name`, there or not.
    pub(super) fn new(name: &str) -> Result<Self> {
        let folders = hierarchies()?.into_iter().map(|root| root.join(name)).collect();
        Ok(Self { folders })
    }

    /// Makes it.
    pub(super) fn create(&self) -> Result<()> {
        for folder in &self.folders {
            for part in [folder.clone(), folder.join(LEAF)] {
                fs::create_dir_all(&part).with_context(|| format!("creating the cgroup {}", part.display()))?;
                inherit_cpuset(&part)?;
            }
        }
        Ok(())
    }

    /// Returns the files through which a process joins.
    pub(super) fn doors(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.folders.iter().map(|folder| folder.join(LEAF).join("cgroup.procs"))
    }

    /// Kills everything in it and waits until nothing is left.
    pub(super) fn kill(&self, progress: &Progress) -> Result<()> {
        progress.wait("the end of killed processes", GONE_WITHIN, || {
            let found = self.processes();
            for pid in &found {
                // A process that is gone meanwhile is fine; any other failure shows as a process that stays.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            Ok(if found.is_empty() { Poll::Ready(()) } else { Poll::Pending(format!("processes {found:?} are left")) })
        })
    }

    /// Removes it. The kernel may take a moment to let go of what was killed.
    pub(super) fn remove(&self, progress: &Progress) -> Result<()> {
        progress.wait("the removal of cgroups", GONE_WITHIN, || {
            for folder in &self.folders {
                if let Err(error) = remove_tree(folder) {
                    return Ok(Poll::Pending(format!("{}: {error}", folder.display())));
                }
            }
            Ok(Poll::Ready(()))
        })
    }

    /// Returns the processes in it and below it.
    pub(super) fn processes(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for folder in &self.folders {
            collect(folder, &mut found);
        }
        found
    }
}

/// Returns the roots of all hierarchies.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.to_owned()]);
    }
    let mut roots = Vec::new();
    for entry in fs::read_dir(mount).with_context(|| format!("no cgroups are mounted at {MOUNT}"))? {
        let entry = entry?;
        // Links are other names of joint hierarchies. `unified`, version 2 beside version 1, counts: runc uses it too.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            roots.push(entry.path());
        }
    }
    Ok(roots)
}

/// Gives a new cpuset of version 1 its parent's processors, because it accepts no process without any. In version 2 an
/// empty cpuset has its parent's processors, and the root has no such file.
fn inherit_cpuset(folder: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, parents) = (folder.join(file), folder.with_file_name(file));
        if own.exists() && parents.exists() && fs::read_to_string(&own)?.trim().is_empty() {
            fs::write(&own, fs::read(&parents)?).with_context(|| format!("filling {}", own.display()))?;
        }
    }
    Ok(())
}

fn collect(folder: &Path, found: &mut BTreeSet<i32>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process outside the reader's PID namespace: not one of ours.
    found.extend(processes.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 0));
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpuset_is_filled_where_the_parent_has_one() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("cpuset.cpus"), "\n").unwrap();
        inherit_cpuset(&own).unwrap();
        assert_eq!(fs::read_to_string(own.join("cpuset.cpus")).unwrap(), "\n");
        fs::write(root.path().join("cpuset.cpus"), "0-1\n").unwrap();
        inherit_cpuset(&own).unwrap();
        assert_eq!(fs::read_to_string(own.join("cpuset.cpus")).unwrap(), "0-1\n");
    }
}
