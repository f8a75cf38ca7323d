//! The sandboxes that this agent has seen, and the process that holds each.

use std::{collections::HashMap, sync::Arc};

use holdfast_core::id::ContainerId;
use parking_lot::Mutex;

use super::backend::Processes;

/// The state of a sandbox, as far as its process tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SandboxState {
    /// Its process runs.
    Alive,
    /// Its process was seen and has ended.
    Dead,
    /// Its process was never seen.
    Unknown,
}

/// The sandboxes, by container tag.
pub(super) struct Sandboxes {
    processes: Arc<dyn Processes>,
    known: Mutex<HashMap<u64, Sandbox>>,
}

#[derive(Debug, Clone)]
struct Sandbox {
    container: ContainerId,
    pid: u32,
    /// A process whose end was reported. For a moment it can still be seen.
    ended: Option<u32>,
}

impl Sandboxes {
    /// Returns an empty registry over the node's processes.
    pub(super) fn new(processes: Arc<dyn Processes>) -> Self {
        Self { processes, known: Mutex::default() }
    }

    /// Remembers a sandbox's process.
    pub(super) fn record(&self, container: &ContainerId, pid: u32) {
        let mut known = self.known.lock();
        let ended = known.get(&container.tag()).and_then(|there| there.ended);
        known.insert(container.tag(), Sandbox { container: container.clone(), pid, ended });
    }

    /// Remembers that a process has ended. Returns its container, if it is one that was seen.
    pub(super) fn record_exit(&self, tag: u64, pid: u32) -> Option<ContainerId> {
        let mut known = self.known.lock();
        let there = known.get_mut(&tag)?;
        there.ended = Some(pid);
        Some(there.container.clone())
    }

    /// Forgets a sandbox. Returns its process.
    pub(super) fn forget(&self, tag: u64) -> Option<u32> {
        self.known.lock().remove(&tag).map(|there| there.pid)
    }

    /// Returns the process of a sandbox that was seen.
    pub(super) fn pid(&self, tag: u64) -> Option<u32> {
        self.known.lock().get(&tag).map(|there| there.pid)
    }

    /// Looks for a sandbox's process, other than one that has ended.
    pub(super) async fn find(&self, container: &ContainerId) -> Option<u32> {
        let ended = self.known.lock().get(&container.tag()).and_then(|there| there.ended);
        self.processes.find(container, ended).await
    }

    /// Returns whether a sandbox lives, as far as can be told. One whose process has ended and that has no other is
    /// dead.
    pub(super) async fn state(&self, container: &ContainerId) -> SandboxState {
        let known = self.known.lock().get(&container.tag()).cloned();
        if let Some(Sandbox { pid, ended, .. }) = known
            && ended != Some(pid)
            && self.processes.belongs_to_container(pid, container).await
        {
            return SandboxState::Alive;
        }
        match (self.find(container).await, known) {
            (Some(pid), _) => {
                self.record(container, pid);
                SandboxState::Alive
            }
            (None, Some(_)) => SandboxState::Dead,
            (None, None) => SandboxState::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::backend::ProcFs;

    #[tokio::test]
    async fn a_container_that_no_process_belongs_to_is_unknown() {
        let container: ContainerId = "no-process-has-this-in-its-cgroup".parse().unwrap();
        let sandboxes = Sandboxes::new(Arc::new(ProcFs));
        assert_eq!(sandboxes.state(&container).await, SandboxState::Unknown);
        sandboxes.record(&container, std::process::id());
        assert_eq!(sandboxes.state(&container).await, SandboxState::Dead, "the process has another cgroup by now");
        assert_eq!(sandboxes.record_exit(container.tag(), 1), Some(container.clone()));
        assert_eq!(sandboxes.forget(container.tag()), Some(std::process::id()));
    }
}
