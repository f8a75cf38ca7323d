//! The deaths of sandboxes: each one's process is looked for after its ADD, and its end watched.

use std::{sync::Arc, time::Duration};

use holdfast_core::{
    binding::{Action, Event},
    id::ContainerId,
};
use holdfast_guard::GuardEvent;
use tokio::time::Instant;

use super::Attach;
use crate::node::sandbox::Life;

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
                if attach.begin_watch(&container).await {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Whether the sandbox's process was found.
    pub(super) async fn begin_watch(&self, container: &ContainerId) -> bool {
        let (sandboxes, wanted) = (Arc::clone(&self.sandboxes), container.clone());
        let found = tokio::task::spawn_blocking(move || sandboxes.find(&wanted)).await;
        let Ok(Some(process)) = found else { return false };
        let tag = container.tag();
        self.sandboxes.saw(container, process);
        if let Err(error) = self.datapath.watch_sandbox(process, tag) {
            tracing::warn!(%container, process, %error, "the end of this sandbox will not be reported");
        }
        // It may have ended before the kernel knew that it is watched.
        if self.sandboxes.life(container) == Life::Dead {
            self.sandbox_exited(tag, process).await;
        } else if !self.datapath.watches_sandboxes() {
            self.await_exit(process, tag);
        }
        true
    }

    /// Where the kernel has no tracepoint for it, the process's own descriptor says when it ends.
    fn await_exit(&self, process: u32, tag: u64) {
        let attach = self.clone();
        self.background.spawn(async move {
            tokio::select! {
                () = attach.stop.cancelled() => {}
                ended = holdfast_guard::sandbox_ended(process) => match ended {
                    Ok(()) => attach.sandbox_exited(tag, process).await,
                    Err(error) => tracing::warn!(process, %error, "the end of this sandbox will not be reported"),
                },
            }
        });
    }

    /// The guard saw a watched process end.
    pub(super) async fn process_ended(&self, event: &GuardEvent) {
        let (tag, process) = (event.container_tag, event.process);
        let death = self.fence_dead(tag, process).await;
        self.metrics.fenced(event.age());
        self.after_death(tag, process, death).await;
    }

    /// A sandbox's process has ended, whoever noticed.
    pub(super) async fn sandbox_exited(&self, tag: u64, process: u32) {
        let death = self.fence_dead(tag, process).await;
        self.after_death(tag, process, death).await;
    }

    /// The end of a process is its sandbox's death if no other process holds it. Then its links are fenced at once.
    async fn fence_dead(&self, tag: u64, process: u32) -> Death {
        let mut container = self.sandboxes.ended(tag, process);
        if container.is_none() {
            // An earlier agent had it watched.
            container = self.container_of(tag).await.inspect(|container| self.sandboxes.saw(container, process));
            self.sandboxes.ended(tag, process);
        }
        match container {
            Some(container) if self.sandboxes.life(&container) == Life::Alive => Death::None(container),
            container => {
                let container = container.as_ref().map(ContainerId::as_str);
                tracing::info!(container, process, "a sandbox's process ended");
                let looks = self.take(Event::SandboxExited { tag });
                Death::Of(looks)
            }
        }
    }

    /// The record loses its holder only when a second look, some time later, finds the same.
    async fn after_death(&self, tag: u64, process: u32, death: Death) {
        if let Death::Of(looks) = death {
            tokio::time::sleep(SECOND_LOOK).await;
            self.carry_out(looks, None).await;
        } else if let Death::None(container) = death {
            self.watch_sandbox(container);
        }
        // Until here the entry in the map was what a crash would have left of this.
        if let Err(error) = self.datapath.forget_sandbox_of(process, tag) {
            tracing::warn!(process, %error, "an ended process is still watched; the next comparison handles it again");
        }
    }

    /// Whose tag it is, where a link of the container is still there.
    async fn container_of(&self, tag: u64) -> Option<ContainerId> {
        let by_tag = |container: &ContainerId| container.tag() == tag;
        let known = self.tenants().values().map(|tenant| tenant.container.clone()).find(by_tag);
        if known.is_some() {
            return known;
        }
        let links = self.network.links().await.unwrap_or_default();
        links.into_iter().map(|link| link.container).find(by_tag)
    }
}

/// What the end of a process was.
enum Death {
    /// None: the sandbox has another process.
    None(ContainerId),
    /// Its sandbox's. These looks are to follow.
    Of(Vec<Action>),
}
