//! One verb at a time for each pod: a runtime may send a repeated ADD, or a DEL, while the first ADD still runs.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use holdfast_core::id::PodName;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A lock for each pod that has one.
#[derive(Debug, Default)]
pub(super) struct PodLocks(Mutex<HashMap<PodName, Weak<AsyncMutex<()>>>>);

impl PodLocks {
    /// Waits for the pod's lock. Dropping what is returned unlocks it.
    pub(super) async fn lock(&self, pod: &PodName) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
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
    async fn each_pod_has_its_own_lock() {
        let (locks, a, b) = (PodLocks::default(), PodName::new("n", "a"), PodName::new("n", "b"));
        let first = locks.lock(&a).await;
        let mut second = Box::pin(locks.lock(&a));
        assert!(second.as_mut().now_or_never().is_none());
        drop(locks.lock(&b).await);
        drop(first);
        drop(second.await);
        assert_eq!(locks.0.lock().values().filter(|lock| lock.strong_count() > 0).count(), 0);
    }
}
