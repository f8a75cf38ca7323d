//! The ends of sandboxes: each one's process is looked for after its ADD, and its exit watched.
//!
//! ```text
//! exit of a watched process ─▶ another process holds the sandbox? ── yes ─▶ look for that one, watch it
//!                                         │ no
//!                     fence at once ◀─────┘
//!                          │ 200 ms
//!                          ▼
//!                     Verify: the second observation ─▶ Collect, or current again
//! ```

use std::time::Duration;

use holdfast_core::{
    binding::{Action, Event},
    id::ContainerId,
};
use holdfast_guard::GuardEvent;
use tokio::time::Instant;

use super::{driver::GuardDriver, sandbox::SandboxState};

/// The time for which a new sandbox's process is looked for: the runtime starts it some time after the ADD.
const SEARCH: Duration = Duration::from_secs(30);
/// The search looks often at first, then less and less.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between the first observation of a sandbox's end and the second.
const SECOND_OBSERVATION: Duration = Duration::from_millis(200);

impl GuardDriver {
    /// Looks for the process that holds a new sandbox, in the background, and has its exit reported.
    pub(super) fn watch_sandbox(&self, container: ContainerId) {
        let driver = self.clone();
        self.background.spawn(async move {
            let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
            while begun.elapsed() < SEARCH && !driver.background.is_stopping() {
                if driver.find_and_watch(&container).await {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Returns whether the sandbox's process was found.
    pub(super) async fn find_and_watch(&self, container: &ContainerId) -> bool {
        let Some(pid) = self.sandboxes.find(container).await else { return false };
        let tag = container.tag();
        self.sandboxes.record(container, pid);
        if let Err(error) = self.backends.guard.watch_sandbox(pid, tag) {
            tracing::warn!(%container, process = pid, %error, "the end of this sandbox will not be reported");
        }
        // It may have ended before the kernel knew that it is watched.
        if self.sandboxes.state(container).await == SandboxState::Dead {
            self.sandbox_exited(tag, pid).await;
        } else if !self.backends.guard.watches_sandboxes() {
            self.await_exit(pid, tag);
        }
        true
    }

    /// Looks for a sandbox's process if it is not known yet, and handles its end if it is known and has ended unseen.
    pub(super) async fn check_sandbox(&self, container: &ContainerId) {
        let tag = container.tag();
        match self.sandboxes.pid(tag) {
            None => drop(self.find_and_watch(container).await),
            Some(pid) if self.sandboxes.state(container).await == SandboxState::Dead => {
                self.sandbox_exited(tag, pid).await;
            }
            Some(_) => {}
        }
    }

    /// Waits for a process's exit by its descriptor, since the kernel has no tracepoint for it.
    fn await_exit(&self, pid: u32, tag: u64) {
        let driver = self.clone();
        self.background.spawn(async move {
            tokio::select! {
                () = driver.background.stopping() => {}
                ended = driver.backends.processes.wait_exited(pid) => match ended {
                    Ok(()) => driver.sandbox_exited(tag, pid).await,
                    Err(error) => tracing::warn!(process = pid, %error, "the end of this sandbox will not be reported"),
                },
            }
        });
    }

    /// Handles the exit of a watched process, which the guard reported.
    pub(super) async fn process_ended(&self, event: &GuardEvent) {
        let (tag, pid) = (event.container_tag, event.process);
        let exit = self.fence_exited(tag, pid).await;
        self.metrics.fenced(self.backends.guard.age(event));
        self.after_exit(tag, pid, exit).await;
    }

    /// Handles the exit of a sandbox's process, which the reconciler or a descriptor reported.
    pub(super) async fn sandbox_exited(&self, tag: u64, pid: u32) {
        let exit = self.fence_exited(tag, pid).await;
        self.after_exit(tag, pid, exit).await;
    }

    /// The end of a process is its sandbox's if no other process holds that. Then its links are fenced at once.
    async fn fence_exited(&self, tag: u64, pid: u32) -> SandboxExit {
        let mut container = self.sandboxes.record_exit(tag, pid);
        if container.is_none() {
            // An earlier agent had it watched.
            container = self.container_of(tag).await.inspect(|container| self.sandboxes.record(container, pid));
            self.sandboxes.record_exit(tag, pid);
        }
        if let Some(container) = &container
            && self.sandboxes.state(container).await == SandboxState::Alive
        {
            return SandboxExit::Replaced(container.clone());
        }
        let container = container.as_ref().map(ContainerId::as_str);
        tracing::info!(container, process = pid, "a sandbox's process ended");
        SandboxExit::Ended(self.step_or_log(Event::SandboxExited { tag }))
    }

    /// The record loses its holder only when a second observation, some time later, finds the same.
    async fn after_exit(&self, tag: u64, pid: u32, exit: SandboxExit) {
        match exit {
            SandboxExit::Ended(actions) => {
                tokio::time::sleep(SECOND_OBSERVATION).await;
                self.carry_out(actions, None).await;
            }
            SandboxExit::Replaced(container) => self.watch_sandbox(container),
        }
        // Until here the entry in the map was what a crash would have left of this.
        if let Err(error) = self.backends.guard.forget_sandbox_of(pid, tag) {
            tracing::warn!(process = pid, %error, "an ended process is still watched; the next reconciliation handles it again");
        }
    }

    /// Returns the container with this tag, where a link of it is still there.
    async fn container_of(&self, tag: u64) -> Option<ContainerId> {
        let known = self.attachments.find(|attachment| attachment.container.tag() == tag);
        if let Some(attachment) = known {
            return Some(attachment.container);
        }
        let links = self.backends.links.links().await.unwrap_or_default();
        links.into_iter().map(|link| link.container).find(|container| container.tag() == tag)
    }
}

/// The meaning of a process's exit for its sandbox.
enum SandboxExit {
    /// The sandbox has another process.
    Replaced(ContainerId),
    /// The sandbox has ended. The actions are the second observation.
    Ended(Vec<Action>),
}
