//! One verb at a time for each pod: a runtime may send a repeated ADD, or a DEL, while the first ADD still runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use holdfast_core::id::PodName;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

#[derive(Debug, Default)]
pub(super) struct PodLocks(Mutex<HashMap<PodName, Weak<AsyncMutex<()>>>>);

impl PodLocks {
    /// Waits for the pod's lock, which ends when the answer is dropped.
    pub(super) async fn lock(&self, pod: &PodName) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let lock = locks.get(pod).and_then(Weak::upgrade).unwrap_or_default();
            locks.insert(pod.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_are_taken_by_pod() {
        let (locks, a, b) = (PodLocks::default(), PodName::new("n", "a"), PodName::new("n", "b"));
        let first = locks.lock(&a).await;
        let mut second = Box::pin(locks.lock(&a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(locks.lock(&b).await);
        drop(first);
        drop(second.await);
        assert_eq!(locks.0.lock().unwrap().values().filter(|lock| lock.strong_count() > 0).count(), 0);
    }
}
