//! The deaths of sandboxes: each one's process is looked for after its ADD, and its end watched.

use std::{sync::Arc, time::Duration};

use holdfast_core::{
    binding::{Action, Event},
    id::ContainerId,
};
use holdfast_guard::GuardEvent;
use tokio::time::Instant;

use super::Attach;
use crate::node::sandbox::SandboxState;

/// How long the search for a new sandbox's process goes on: the runtime starts it some time after the ADD.
const SEARCH: Duration = Duration::from_secs(30);
/// The search looks often at first, then less and less.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between the first observation of a death and the second.
const SECOND_LOOK: Duration = Duration::from_millis(200);

impl Attach {
    /// Looks for the process that holds a new sandbox, and has its end reported.
    pub(super) fn watch_sandbox(&self, container: ContainerId) {
        let attach = self.clone();
        self.background.spawn(async move {
            let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
            while begun.elapsed() < SEARCH && !attach.stop.is_cancelled() {
                if attach.find_and_watch(&container).await {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Whether the sandbox's process was found.
    pub(super) async fn find_and_watch(&self, container: &ContainerId) -> bool {
        let (sandboxes, wanted) = (Arc::clone(&self.sandboxes), container.clone());
        let found = tokio::task::spawn_blocking(move || sandboxes.find(&wanted)).await;
        let Ok(Some(pid)) = found else { return false };
        let tag = container.tag();
        self.sandboxes.saw(container, pid);
        if let Err(error) = self.datapath.watch_sandbox(pid, tag) {
            tracing::warn!(%container, process = pid, %error, "the end of this sandbox will not be reported");
        }
        // It may have ended before the kernel knew that it is watched.
        if self.sandboxes.state(container) == SandboxState::Dead {
            self.sandbox_exited(tag, pid).await;
        } else if !self.datapath.watches_sandboxes() {
            self.await_exit(pid, tag);
        }
        true
    }

    /// Where the kernel has no tracepoint for it, the process's own descriptor says when it ends.
    fn await_exit(&self, pid: u32, tag: u64) {
        let attach = self.clone();
        self.background.spawn(async move {
            tokio::select! {
                () = attach.stop.cancelled() => {}
                ended = holdfast_guard::sandbox_ended(pid) => match ended {
                    Ok(()) => attach.sandbox_exited(tag, pid).await,
                    Err(error) => tracing::warn!(process = pid, %error, "the end of this sandbox will not be reported"),
                },
            }
        });
    }

    /// The guard saw a watched process end.
    pub(super) async fn process_ended(&self, event: &GuardEvent) {
        let (tag, pid) = (event.container_tag, event.process);
        let death = self.fence_exited(tag, pid).await;
        self.metrics.fenced(event.age());
        self.after_exit(tag, pid, death).await;
    }

    /// A sandbox's process has ended, whoever noticed.
    pub(super) async fn sandbox_exited(&self, tag: u64, pid: u32) {
        let death = self.fence_exited(tag, pid).await;
        self.after_exit(tag, pid, death).await;
    }

    /// The end of a process is its sandbox's death if no other process holds it. Then its links are fenced at once.
    async fn fence_exited(&self, tag: u64, pid: u32) -> SandboxExit {
        let mut container = self.sandboxes.ended(tag, pid);
        if container.is_none() {
            // An earlier agent had it watched.
            container = self.container_of(tag).await.inspect(|container| self.sandboxes.saw(container, pid));
            self.sandboxes.ended(tag, pid);
        }
        match container {
            Some(container) if self.sandboxes.state(&container) == SandboxState::Alive => SandboxExit::None(container),
            container => {
                let container = container.as_ref().map(ContainerId::as_str);
                tracing::info!(container, process = pid, "a sandbox's process ended");
                let looks = self.take(Event::SandboxExited { tag });
                SandboxExit::Of(looks)
            }
        }
    }

    /// The record loses its holder only when a second look, some time later, finds the same.
    async fn after_exit(&self, tag: u64, pid: u32, death: SandboxExit) {
        if let SandboxExit::Of(looks) = death {
            tokio::time::sleep(SECOND_LOOK).await;
            self.carry_out(looks, None).await;
        } else if let SandboxExit::None(container) = death {
            self.watch_sandbox(container);
        }
        // Until here the entry in the map was what a crash would have left of this.
        if let Err(error) = self.datapath.forget_sandbox_of(pid, tag) {
            tracing::warn!(process = pid, %error, "an ended process is still watched; the next comparison handles it again");
        }
    }

    /// Whose tag it is, where a link of the container is still there.
    async fn container_of(&self, tag: u64) -> Option<ContainerId> {
        let by_tag = |container: &ContainerId| container.tag() == tag;
        let known = self.attachments().values().map(|attachment| attachment.container.clone()).find(by_tag);
        if known.is_some() {
            return known;
        }
        let links = self.network.links().await.unwrap_or_default();
        links.into_iter().map(|link| link.container).find(by_tag)
    }
}

/// What the end of a process was.
enum SandboxExit {
    /// None: the sandbox has another process.
    None(ContainerId),
    /// Its sandbox's. These looks are to follow.
    Of(Vec<Action>),
}
