//! The guard's events, handed to the driver.

use std::{collections::HashMap, sync::Arc, time::Duration};

use holdfast_core::id::IfIndex;
use holdfast_guard::{DatapathError, EventKind, GuardMetrics};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    backend::{EventSource, Guard},
    driver::GuardDriver,
    reconcile::Reconciler,
};

/// Events of one link that are worked on at the same time. One that needs the API server keeps no others waiting; a
/// flood on one link fills no memory, and keeps no other link's events away. Those beyond are passed over: the packets
/// are dropped by the kernel either way, and what they would have led to, the next event or reconciliation does.
const EVENTS_PER_LINK: usize = 4;
/// Between two looks at the number of events that the kernel had no room for.
const LOST_EVENTS_INTERVAL: Duration = Duration::from_millis(500);

/// Hands on what the guard sees. Returns only when there will be no more events.
pub async fn handle_events(
    mut events: impl EventSource,
    driver: GuardDriver,
    reconciler: Reconciler,
    metrics: GuardMetrics,
) -> anyhow::Result<()> {
    let (limiter, mut lost) = (LinkLimiter::default(), LostEvents::default());
    loop {
        match events.next().await {
            // As many as there are sandboxes: these are never passed over.
            Ok(event) if event.kind == EventKind::SandboxExit => drop(tokio::spawn(driver.handle(event))),
            Ok(event) => match limiter.acquire(event.link) {
                Some(permit) => {
                    let rest = driver.handle(event);
                    tokio::spawn(async move {
                        rest.await;
                        drop(permit);
                    });
                }
                None => metrics.passed_over(),
            },
            Err(error @ DatapathError::Event { .. }) => tracing::warn!(%error, "passed over an event"),
            Err(error) => return Err(error.into()),
        }
        if lost.increased(&*driver.backends.guard)? {
            reconciler.request();
        }
    }
}

/// The number of events of each link that are being handled.
#[derive(Clone, Default)]
struct LinkLimiter(Arc<Mutex<HashMap<IfIndex, usize>>>);

impl LinkLimiter {
    /// Returns a permit, unless the link has as many as it may have.
    fn acquire(&self, link: IfIndex) -> Option<LinkPermit> {
        let mut permits = self.0.lock();
        let count = permits.entry(link).or_default();
        (*count < EVENTS_PER_LINK).then(|| {
            *count += 1;
            LinkPermit { limiter: self.clone(), link }
        })
    }
}

struct LinkPermit {
    limiter: LinkLimiter,
    link: IfIndex,
}

impl Drop for LinkPermit {
    fn drop(&mut self) {
        let mut permits = self.limiter.0.lock();
        if let Some(count) = permits.get_mut(&self.link) {
            *count -= 1;
            if *count == 0 {
                permits.remove(&self.link);
            }
        }
    }
}

/// The kernel's count of events that found no room, as it was last read.
#[derive(Default)]
struct LostEvents {
    read_at: Option<Instant>,
    count: Option<u64>,
}

impl LostEvents {
    /// Returns whether more were lost since the last time. The count is read only now and then.
    fn increased(&mut self, guard: &dyn Guard) -> Result<bool, DatapathError> {
        if self.read_at.is_some_and(|read_at| read_at.elapsed() < LOST_EVENTS_INTERVAL) {
            return Ok(false);
        }
        self.read_at = Some(Instant::now());
        let count = guard.events_lost()?;
        Ok(self.count.replace(count).is_some_and(|before| count > before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_its_own_permits() {
        let limiter = LinkLimiter::default();
        let permits: Vec<_> = (0..EVENTS_PER_LINK).map(|_| limiter.acquire(IfIndex(1)).unwrap()).collect();
        assert!(limiter.acquire(IfIndex(1)).is_none() && limiter.acquire(IfIndex(2)).is_some());
        drop(permits);
        assert!(limiter.acquire(IfIndex(1)).is_some());
        assert!(limiter.0.lock().is_empty(), "links without events take no memory");
    }
}
