//! The node's processes, by the container ID that a runtime puts into their cgroup's path.
//!
//! This needs the node's process IDs (`hostPID`). Where a process cannot be found, nothing is concluded from that.

use std::{fs, io, path::PathBuf};

use async_trait::async_trait;
use holdfast_core::id::ContainerId;

/// The process table.
#[async_trait]
pub trait Processes: Send + Sync {
    /// Returns the first process that holds a container's sandbox, other than `ended`.
    async fn find(&self, container: &ContainerId, ended: Option<u32>) -> Option<u32>;

    /// Returns whether a process runs and belongs to a container.
    async fn belongs_to_container(&self, pid: u32, container: &ContainerId) -> bool;

    /// Returns whether a process belongs to the pod with this UID.
    async fn belongs_to_pod(&self, pid: u32, pod_uid: &str) -> bool;

    /// Returns a process's container and its pod's UID, where it has any.
    async fn identity(&self, pid: u32) -> Option<(ContainerId, String)>;

    /// Returns whether a process runs, of whichever container.
    async fn is_running(&self, pid: u32) -> bool;

    /// Waits for the end of a process. Returns at once for one that has ended.
    async fn wait_exited(&self, pid: u32) -> io::Result<()>;

    /// Returns the path of a process's network namespace.
    fn netns(&self, pid: u32) -> PathBuf;
}

/// `/proc`.
#[derive(Debug, Clone, Copy)]
pub struct ProcFs;

#[async_trait]
impl Processes for ProcFs {
    async fn find(&self, container: &ContainerId, ended: Option<u32>) -> Option<u32> {
        let container = container.clone();
        blocking(move || find(&container, ended)).await
    }

    async fn belongs_to_container(&self, pid: u32, container: &ContainerId) -> bool {
        let container = container.clone();
        blocking(move || belongs_to_container(pid, &container)).await
    }

    async fn belongs_to_pod(&self, pid: u32, pod_uid: &str) -> bool {
        let pod_uid = pod_uid.to_owned();
        blocking(move || belongs_to_pod(pid, &pod_uid)).await
    }

    async fn identity(&self, pid: u32) -> Option<(ContainerId, String)> {
        blocking(move || parse_identity(&cgroup(pid)?)).await
    }

    async fn is_running(&self, pid: u32) -> bool {
        blocking(move || !is_zombie(pid)).await
    }

    async fn wait_exited(&self, pid: u32) -> io::Result<()> {
        holdfast_guard::sandbox_ended(pid).await
    }

    fn netns(&self, pid: u32) -> PathBuf {
        format!("/proc/{pid}/ns/net").into()
    }
}

/// Runs `work` on a blocking thread. A runtime that ends gives no thread any more, and this no answer: "not there"
/// would be taken for a sandbox's death.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

/// The programs of container runtimes.
const RUNTIMES: [&str; 5] = ["runc", "crun", "youki", "conmon", "containerd-shim"];

/// While a sandbox starts, its runtime's own helpers carry the container's ID too, for moments; they still run the
/// runtime's program.
fn find(container: &ContainerId, ended: Option<u32>) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let candidates = ids.filter(|pid| Some(*pid) != ended && belongs_to_container(*pid, container));
    candidates.filter(|pid| !is_helper(*pid)).min()
}

/// Returns whether a process runs a runtime's program, or none that can be told. runc runs from a copy in memory.
fn is_helper(pid: u32) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return true };
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    program.to_string_lossy().starts_with("/memfd:") || RUNTIMES.iter().any(|runtime| name.starts_with(runtime))
}

fn belongs_to_container(pid: u32, container: &ContainerId) -> bool {
    cgroup(pid).is_some_and(|path| path.contains(container.as_str())) && !is_zombie(pid)
}

/// The systemd cgroup driver writes UIDs with underscores.
fn belongs_to_pod(pid: u32, pod_uid: &str) -> bool {
    cgroup(pid).is_some_and(|path| path.contains(pod_uid) || path.contains(&pod_uid.replace('-', "_")))
}

/// Returns whether a process has ended and only waits for its parent, or is gone. proc(5): the state is behind the name
/// in parentheses.
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// The last part of a cgroup's path is the container's, with the names of a runtime and a unit around it under systemd;
/// the part before it is the pod's.
fn parse_identity(cgroups: &str) -> Option<(ContainerId, String)> {
    let mut paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| path.contains("pod"));
    let mut parts = paths.next()?.rsplit('/');
    let container = parts.next()?.trim_end_matches(".scope");
    let container = container.rsplit_once('-').map_or(container, |(_, id)| id);
    let pod = parts.next()?.trim_end_matches(".slice");
    let (_, uid) = pod.rsplit_once("pod")?;
    Some((container.parse().ok()?, uid.replace('_', "-")))
}

fn cgroup(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_name_container_and_pod_under_either_driver() {
        let uid = "dec92b34-2d47-47f0-a9df-182fe075bf12";
        let plain = format!("5:pids:/node1/kubepods/besteffort/pod{uid}/4180501f\n");
        let unit = uid.replace('-', "_");
        let systemd = format!(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{unit}.slice/cri-containerd-4180501f.scope\n"
        );
        for text in [plain, systemd] {
            let (container, found) = parse_identity(&text).unwrap();
            assert_eq!((container.as_str(), found.as_str()), ("4180501f", uid));
        }
        assert_eq!(parse_identity("0::/init.scope\n"), None);
    }

    #[tokio::test]
    async fn a_process_runs_until_it_is_reaped_or_a_zombie() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(ProcFs.is_running(child.id()).await);
        child.kill().unwrap();
        ProcFs.wait_exited(child.id()).await.unwrap();
        assert!(!ProcFs.is_running(child.id()).await, "it is a zombie");
        child.wait().unwrap();
        assert!(!ProcFs.is_running(child.id()).await);
    }
}
