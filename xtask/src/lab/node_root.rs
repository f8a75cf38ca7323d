//! A node's mount namespace: the host's /usr and devices, and /etc, /opt, /var, /run and /sys of its own.
//!
//! Everything is shared inside the node, so that mounts travel between it and its pods, and private against the host.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::network;
use super::node_files::{NodeFiles, PROGRAMS};

/// Starts `leader` in new namespaces that look like a node called `name`. The namespaces live as long as any process in them.
pub(super) fn enter_and<T: Send>(
    netns: &Path,
    name: &str,
    files: &NodeFiles,
    programs: &Path,
    leader: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    // A thread has a mount namespace of its own once it has unshared it, and its children inherit that.
    network::inside(netns, || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("a new mount namespace needs root")?;
        propagate("/", MsFlags::MS_PRIVATE)?;
        // Copies of these mounts would keep another node's network alive after its power is cut.
        let _ = umount2("/run/netns", MntFlags::MNT_DETACH);
        fs::write("/proc/sys/kernel/hostname", name)?;
        disk(files, programs)?;
        fresh("tmpfs", "/run", Some("mode=755"))?;
        for folder in ["/run/netns", "/run/lock"] {
            fs::create_dir(folder)?;
        }
        system()?;
        propagate("/", MsFlags::MS_SHARED)?;
        leader()
    })
}

/// Puts the node's files where it expects them.
fn disk(files: &NodeFiles, programs: &Path) -> Result<()> {
    // Opened before the first mount: the cache may lie in a folder that is about to be covered.
    let places = ["/etc", "/opt", "/var"].map(|place| (files.of(&place[1..]), PathBuf::from(place)));
    let programs = (programs.to_owned(), PathBuf::from(PROGRAMS));
    let mut binds = Vec::new();
    for (own, place) in places.into_iter().chain([programs]).chain(files.masks()) {
        binds.push((handle(&own)?, place));
    }
    for (own, place) in binds {
        // A kernel without this setting has nothing to hide.
        if place.exists() {
            bind(&own, &place)?;
        }
    }
    Ok(())
}

/// Mounts a /sys that shows the node's links, with the host's cgroups and a BPF file system of the node's own.
fn system() -> Result<()> {
    let cgroups = handle(Path::new("/sys/fs/cgroup"))?;
    fresh("sysfs", "/sys", None)?;
    bind(&cgroups, Path::new("/sys/fs/cgroup"))?;
    fresh("bpf", "/sys/fs/bpf", Some("mode=700"))?;
    for (kind, place) in [("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug")] {
        // Not every kernel has them, and not every machine allows them.
        let _ = fresh(kind, place, None);
    }
    Ok(())
}

fn handle(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

fn bind(own: &File, place: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", own.as_raw_fd());
    mount(Some(source.as_str()), place, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("binding onto {}", place.display()))
}

fn fresh(kind: &str, place: &str, options: Option<&str>) -> Result<()> {
    mount(Some(kind), place, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mounting {kind} on {place}"))
}

fn propagate(place: &str, how: MsFlags) -> Result<()> {
    mount(None::<&str>, place, None::<&str>, MsFlags::MS_REC | how, None::<&str>)
        .with_context(|| format!("setting the propagation of {place}"))
}
