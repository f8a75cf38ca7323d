//! The deaths of sandboxes: each one's process is looked for after its ADD, and its end watched.

use std::{sync::Arc, time::Duration};

use holdfast_core::{binding::Event, id::ContainerId};
use tokio::time::Instant;

use super::Attach;
use crate::{datapath, sandbox::Life};

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
                ended = datapath::sandbox_ended(process) => match ended {
                    Ok(()) => attach.sandbox_exited(tag, process).await,
                    Err(error) => tracing::warn!(process, %error, "the end of this sandbox will not be reported"),
                },
            }
        });
    }

    /// A sandbox's process has ended, whoever noticed. It is the sandbox's death if no other process holds it. Its links
    /// are fenced at once; the record loses its holder only when a second look, some time later, finds the same.
    pub(super) async fn sandbox_exited(&self, tag: u64, process: u32) {
        let container = self.sandboxes.ended(tag, process);
        let lives = || container.as_ref().is_some_and(|container| self.sandboxes.life(container) == Life::Alive);
        if !lives() {
            tracing::info!(
                container = container.as_ref().map(ContainerId::as_str),
                process,
                "a sandbox's process ended"
            );
            if let Err(error) = self.step(Event::Exited { tag }) {
                tracing::error!(%error, "the links of a dead sandbox were not fenced; the next comparison mends it");
            }
            tokio::time::sleep(SECOND_LOOK).await;
            for link in self.links_of(tag) {
                self.reconsider(link).await;
            }
        }
        if lives()
            && let Some(container) = container
        {
            self.watch_sandbox(container);
        }
    }
}
