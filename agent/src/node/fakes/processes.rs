//! A process table in memory.

use std::{collections::BTreeMap, io, path::PathBuf};

use async_trait::async_trait;
use holdfast_core::id::ContainerId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::node::backend::Processes;

/// The processes that hold sandboxes.
#[derive(Default)]
pub struct FakeProcesses {
    running: Mutex<BTreeMap<u32, Process>>,
    ended: Notify,
}

#[derive(Clone)]
struct Process {
    container: ContainerId,
    pod_uid: String,
}

impl FakeProcesses {
    /// Starts a process that holds a container's sandbox.
    pub fn start(&self, pid: u32, container: &ContainerId, pod_uid: &str) {
        let process = Process { container: container.clone(), pod_uid: pod_uid.to_owned() };
        self.running.lock().insert(pid, process);
    }

    /// Ends a process.
    pub fn end(&self, pid: u32) {
        self.running.lock().remove(&pid);
        self.ended.notify_waiters();
    }

    fn get(&self, pid: u32) -> Option<Process> {
        self.running.lock().get(&pid).cloned()
    }
}

#[async_trait]
impl Processes for FakeProcesses {
    async fn find(&self, container: &ContainerId, ended: Option<u32>) -> Option<u32> {
        let running = self.running.lock();
        let mut found = running.iter().filter(|(pid, process)| Some(**pid) != ended && process.container == *container);
        found.next().map(|(pid, _)| *pid)
    }

    async fn belongs_to_container(&self, pid: u32, container: &ContainerId) -> bool {
        self.get(pid).is_some_and(|process| process.container == *container)
    }

    async fn belongs_to_pod(&self, pid: u32, pod_uid: &str) -> bool {
        self.get(pid).is_some_and(|process| process.pod_uid == pod_uid)
    }

    async fn identity(&self, pid: u32) -> Option<(ContainerId, String)> {
        self.get(pid).map(|process| (process.container, process.pod_uid))
    }

    async fn is_running(&self, pid: u32) -> bool {
        self.get(pid).is_some()
    }

    async fn wait_exited(&self, pid: u32) -> io::Result<()> {
        loop {
            let ended = self.ended.notified();
            if self.get(pid).is_none() {
                return Ok(());
            }
            ended.await;
        }
    }

    fn netns(&self, pid: u32) -> PathBuf {
        format!("/proc/{pid}/ns/net").into()
    }
}
