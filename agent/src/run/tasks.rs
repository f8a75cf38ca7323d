//! The tasks of a process, and how they end.

use std::{
    future::{Future, pending},
    time::Duration,
};

use anyhow::{anyhow, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The time that everything that serves has to end. A kubelet kills the process half a minute after its SIGTERM.
const DRAIN: Duration = Duration::from_secs(25);

/// The outcome of a task.
pub(super) type Outcome = anyhow::Result<()>;

/// The tasks of a process.
#[derive(Default)]
pub(super) struct Tasks {
    /// Tasks that end by themselves once they are told to stop, and have requests to answer before.
    pub(super) serving: JoinSet<Outcome>,
    /// Watches and the like. They do not end by themselves and are aborted.
    pub(super) following: JoinSet<Outcome>,
}

/// Waits for a signal, or for a task that ends when it should not; then lets everything come to its end, and `last`
/// after it.
pub(super) async fn until_stopped(
    mut tasks: Tasks,
    stop: &CancellationToken,
    last: impl Future<Output = ()>,
) -> Outcome {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        early = tasks.early_end() => Err(early),
    };
    tracing::info!("stopping; requests that run end first");
    stop.cancel();
    tokio::select! {
        _ = terminate.recv() => bail!("stopped before everything had ended"),
        _ = interrupt.recv() => bail!("stopped before everything had ended"),
        () = tasks.drain(DRAIN, last) => outcome,
    }
}

impl Tasks {
    /// Returns the error of the first task that ends. Waits for ever while none does.
    async fn early_end(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.serving.join_next() => ended,
            Some(ended) = self.following.join_next() => ended,
            else => pending().await,
        };
        match ended {
            Ok(Ok(())) => anyhow!("a task ended early"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error).context("a task failed"),
        }
    }

    /// Waits until all that serves has ended, then for `last`, and ends the rest.
    async fn drain(&mut self, within: Duration, last: impl Future<Output = ()>) {
        let ends = async {
            while let Some(ended) = self.serving.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "a task ended with an error"),
                    Err(error) => tracing::warn!(%error, "a task failed"),
                }
            }
            last.await;
        };
        if tokio::time::timeout(within, ends).await.is_err() {
            tracing::warn!("not everything has ended in {within:?}; leaving it");
        }
        self.serving.abort_all();
        self.following.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Tasks that take `each` to end once they are told to, a watch that knows no end, and how many have ended.
    fn tasks(each: &[u64], stop: &CancellationToken) -> (Tasks, Arc<AtomicUsize>) {
        let (mut tasks, ended) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        for &milliseconds in each {
            let (stop, ended) = (stop.clone(), Arc::clone(&ended));
            tasks.serving.spawn(async move {
                stop.cancelled().await;
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                ended.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }
        tasks.following.spawn(pending());
        (tasks, ended)
    }

    #[tokio::test]
    async fn all_that_serves_is_waited_for_and_no_watch() {
        let stop = CancellationToken::new();
        let (mut tasks, ended) = tasks(&[0, 150, 50], &stop);
        stop.cancel();
        let seen = Arc::clone(&ended);
        let last = async move { assert_eq!(seen.fetch_add(10, Ordering::Relaxed), 3, "the last comes last") };
        tasks.drain(Duration::from_secs(20), last).await;
        assert_eq!(ended.load(Ordering::Relaxed), 13);
    }

    #[tokio::test]
    async fn what_does_not_end_is_left_after_its_time() {
        let stop = CancellationToken::new();
        let (mut tasks, ended) = tasks(&[0, 600_000], &stop);
        stop.cancel();
        tasks.drain(Duration::from_millis(200), pending()).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_task_that_ends_early_says_why() {
        let stop = CancellationToken::new();
        let (mut tasks, _) = tasks(&[0], &stop);
        tasks.following.spawn(async { bail!("the watch of the pools ended") });
        assert_eq!(tasks.early_end().await.to_string(), "the watch of the pools ended");
    }
}
