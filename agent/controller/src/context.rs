//! The parts that all jobs of a controller share.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use holdfast_api::store::{Store, StoreError};
use parking_lot::Mutex;

use crate::{
    delay_queue::Requeue, heartbeat::Heartbeat, outcome_recorder::OutcomeRecorder, reflectors::Reflectors,
    settings::Settings,
};

/// The number of objects that are worked on at the same time. It keeps an API server busy and leaves room for others.
const CONCURRENCY: usize = 16;

/// The parts that all jobs of a controller share.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) reflectors: Reflectors,
    pub(crate) settings: Settings,
    pub(crate) outcomes: OutcomeRecorder,
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// The objects whose write failed.
    failed: Mutex<Vec<Requeue>>,
    started: Instant,
}

impl Context {
    pub(crate) fn new(
        store: Store,
        reflectors: Reflectors,
        settings: Settings,
        outcomes: OutcomeRecorder,
        heartbeat: Arc<Heartbeat>,
    ) -> Self {
        Self { store, reflectors, settings, outcomes, heartbeat, failed: Mutex::default(), started: Instant::now() }
    }

    /// Returns the time on the controller's clock, which only runs forward.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Calls `work` for each item, several at the same time. Each end counts as progress.
    pub(crate) async fn for_each<T, F: Future<Output = ()>>(&self, items: Vec<T>, work: impl Fn(T) -> F) {
        let work = &work;
        let each = stream::iter(items).for_each_concurrent(CONCURRENCY, |item| async move {
            work(item).await;
            self.heartbeat.progress();
        });
        each.await;
    }

    /// Notes an object whose write failed. It is looked at again soon.
    pub(crate) fn requeue(&self, item: Requeue) {
        self.failed.lock().push(item);
    }

    /// Removes and returns the objects whose writes failed.
    pub(crate) fn take_requeued(&self) -> Vec<Requeue> {
        std::mem::take(&mut *self.failed.lock())
    }

    /// Logs that a write to a pool failed, and requeues the pool. A conflict is no failure: another write came first.
    pub(crate) fn pool_write_failed(&self, pool: &str, error: &StoreError, what: &str) {
        if error.is_conflict() {
            tracing::debug!(pool, %error, "{what}");
        } else {
            tracing::warn!(pool, %error, "{what}; trying again");
        }
        self.requeue(Requeue::Pool(pool.to_owned()));
    }
}
