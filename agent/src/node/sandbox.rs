//! The processes that hold pods' sandboxes, found by the container ID that a runtime puts into their cgroup's path.
//!
//! This needs the node's process IDs (`hostPID`). Where a process cannot be found, nothing is concluded from that.

use std::{
    collections::HashMap,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
};

use holdfast_core::id::ContainerId;

/// Whether a sandbox lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SandboxState {
    /// Its process runs.
    Alive,
    /// Its process was seen and has ended.
    Dead,
    /// Its process was never seen.
    Unknown,
}

/// The sandboxes that this agent has seen, by container tag.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(Mutex<HashMap<u64, Sandbox>>);

#[derive(Debug, Clone)]
struct Sandbox {
    container: ContainerId,
    pid: u32,
    /// A process whose end was reported. For a moment it can still be seen.
    ended: Option<u32>,
}

impl Sandboxes {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Sandbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a sandbox's process.
    pub(super) fn saw(&self, container: &ContainerId, pid: u32) {
        let mut sandboxes = self.lock();
        let ended = sandboxes.get(&container.tag()).and_then(|there| there.ended);
        sandboxes.insert(container.tag(), Sandbox { container: container.clone(), pid, ended });
    }

    /// The end of a process was reported. Gives the container, if it is one that was seen.
    pub(super) fn ended(&self, tag: u64, pid: u32) -> Option<ContainerId> {
        let mut sandboxes = self.lock();
        let there = sandboxes.get_mut(&tag)?;
        there.ended = Some(pid);
        Some(there.container.clone())
    }

    /// Forgets a sandbox; gives its process.
    pub(super) fn forget(&self, tag: u64) -> Option<u32> {
        self.lock().remove(&tag).map(|there| there.pid)
    }

    /// The process of a sandbox that was seen.
    pub(super) fn pid(&self, tag: u64) -> Option<u32> {
        self.lock().get(&tag).map(|there| there.pid)
    }

    /// Looks for a sandbox's pid, other than one that has ended.
    pub(super) fn find(&self, container: &ContainerId) -> Option<u32> {
        let ended = self.lock().get(&container.tag()).and_then(|there| there.ended);
        find(container, ended)
    }

    /// Whether a sandbox lives, as far as can be told. One whose process has ended and that has no other is dead.
    pub(super) fn state(&self, container: &ContainerId) -> SandboxState {
        let known = self.lock().get(&container.tag()).cloned();
        let runs = |there: &Sandbox| there.ended != Some(there.pid) && holds(there.pid, container);
        if known.as_ref().is_some_and(runs) {
            return SandboxState::Alive;
        }
        match (self.find(container), known) {
            (Some(pid), _) => {
                self.saw(container, pid);
                SandboxState::Alive
            }
            (None, Some(_)) => SandboxState::Dead,
            (None, None) => SandboxState::Unknown,
        }
    }
}

/// The programs of container runtimes.
const RUNTIMES: [&str; 5] = ["runc", "crun", "youki", "conmon", "containerd-shim"];

/// The first process whose cgroup carries the container's ID. While a sandbox starts, its runtime's own helpers are there
/// too, for moments; they still run the runtime's program.
fn find(container: &ContainerId, ended: Option<u32>) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let candidates = ids.filter(|pid| Some(*pid) != ended && holds(*pid, container));
    candidates.filter(|pid| !is_helper(*pid)).min()
}

/// Whether a process runs a runtime's program, or none that can be told. runc runs from a copy in memory.
fn is_helper(pid: u32) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return true };
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    program.to_string_lossy().starts_with("/memfd:") || RUNTIMES.iter().any(|runtime| name.starts_with(runtime))
}

fn holds(pid: u32, container: &ContainerId) -> bool {
    cgroup(pid).is_some_and(|path| path.contains(container.as_str())) && !is_zombie(pid)
}

/// Whether a process has ended and only waits for its parent: proc(5), the state behind the name in parentheses.
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether a process runs, whoever's it is.
pub(super) fn runs(pid: u32) -> bool {
    !is_zombie(pid)
}

/// The container and the pod's UID in the path of a process's cgroup, where there are any. The last part of the path is
/// the container's, with the names of a runtime and a unit around it under systemd.
pub(super) fn identity(pid: u32) -> Option<(ContainerId, String)> {
    parse_identity(&cgroup(pid)?)
}

fn parse_identity(cgroups: &str) -> Option<(ContainerId, String)> {
    let mut paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter(|path| path.contains("pod"));
    let mut parts = paths.next()?.rsplit('/');
    let container = parts.next()?.trim_end_matches(".scope");
    let container = container.rsplit_once('-').map_or(container, |(_, id)| id);
    let pod = parts.next()?.trim_end_matches(".slice");
    let (_, uid) = pod.rsplit_once("pod")?;
    Some((container.parse().ok()?, uid.replace('_', "-")))
}

/// Whether a process belongs to the pod with this UID. The systemd cgroup driver writes UIDs with underscores.
pub(super) fn belongs_to(pid: u32, pod_uid: &str) -> bool {
    cgroup(pid).is_some_and(|path| path.contains(pod_uid) || path.contains(&pod_uid.replace('-', "_")))
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

    #[test]
    fn a_container_that_no_process_belongs_to_is_unknown() {
        let container: ContainerId = "no-process-has-this-in-its-cgroup".parse().unwrap();
        let sandboxes = Sandboxes::default();
        assert_eq!(sandboxes.state(&container), SandboxState::Unknown);
        sandboxes.saw(&container, std::process::id());
        assert_eq!(sandboxes.state(&container), SandboxState::Dead, "the process has another cgroup by now");
        assert_eq!(sandboxes.ended(container.tag(), 1), Some(container.clone()));
        assert_eq!(sandboxes.forget(container.tag()), Some(std::process::id()));
    }
}
