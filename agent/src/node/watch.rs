//! What the agent hears of: the guard's events, and endpoints that leave this node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt;
use holdfast_api::{
    endpoint::SpiderEndpoint,
    labels::{NODE_LABEL, label_value},
};
use holdfast_core::id::IfIndex;
use holdfast_guard::{DatapathError, EventKind, Events, GuardMetrics};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use crate::node::Attach;

/// Events of one link that are worked on at the same time. One that needs the API server keeps no others waiting; a flood
/// on one link fills no memory, and keeps no other link's events away. Those beyond are passed over: the packets are
/// dropped by the kernel either way, and what they would have led to, the next event or comparison does.
const EVENTS_PER_LINK: usize = 4;
/// Between two looks at the number of events that the kernel had no room for.
const LOST_EVENTS_INTERVAL: Duration = Duration::from_millis(500);

/// Hands on what the guard sees. Ends only when the ring cannot be read any more.
pub async fn guard(mut events: Events, attach: Attach, metrics: GuardMetrics) -> anyhow::Result<()> {
    let (places, mut losses) = (LinkLimiter::default(), LostEvents::default());
    loop {
        match events.next().await {
            // As many as there are sandboxes: these are never passed over.
            Ok(event) if event.kind == EventKind::SandboxExit => drop(tokio::spawn(attach.handle(event))),
            Ok(event) => match places.take(event.link) {
                Some(place) => {
                    let rest = attach.handle(event);
                    tokio::spawn(async move {
                        rest.await;
                        drop(place);
                    });
                }
                None => metrics.passed_over(),
            },
            Err(error @ DatapathError::Event { .. }) => tracing::warn!(%error, "passed over an event"),
            Err(error) => return Err(error.into()),
        }
        if losses.grew(&attach)? {
            attach.reconcile_soon();
        }
    }
}

/// How many events of each link are under way.
#[derive(Clone, Default)]
struct LinkLimiter(Arc<Mutex<HashMap<IfIndex, usize>>>);

impl LinkLimiter {
    fn take(&self, link: IfIndex) -> Option<LinkPermit> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(link).or_default();
        (*count < EVENTS_PER_LINK).then(|| {
            *count += 1;
            LinkPermit { places: self.clone(), link }
        })
    }
}

struct LinkPermit {
    places: LinkLimiter,
    link: IfIndex,
}

impl Drop for LinkPermit {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.link) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.link);
            }
        }
    }
}

/// The kernel's count of events that found no room, as it was last seen.
#[derive(Default)]
struct LostEvents {
    looked: Option<Instant>,
    lost: Option<u64>,
}

impl LostEvents {
    fn grew(&mut self, attach: &Attach) -> Result<bool, DatapathError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOST_EVENTS_INTERVAL) {
            return Ok(false);
        }
        self.looked = Some(Instant::now());
        let lost = attach.events_lost()?;
        Ok(self.lost.replace(lost).is_some_and(|before| lost > before))
    }
}

/// Follows the endpoints that are bound on this node. One that goes has moved away, or is gone: nothing here may use its
/// addresses any more.
pub async fn endpoints(client: Client, node: String, attach: Attach) -> anyhow::Result<()> {
    let config = watcher::Config::default().labels(&format!("{NODE_LABEL}={}", label_value(&node)));
    let mut events = std::pin::pin!(watcher(Api::<SpiderEndpoint>::all(client), config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Delete(endpoint)) => attach.endpoint_left(&endpoint).await,
            Ok(watcher::Event::Apply(endpoint)) => attach.endpoint_written(endpoint),
            // What left while the watch was cut off shows nowhere but in the new list.
            Ok(watcher::Event::InitDone) => attach.reconcile_soon(),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Err(error) => tracing::warn!(%error, "the watch of this node's endpoints was cut off and starts again"),
        }
    }
    anyhow::bail!("the watch of this node's endpoints ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_its_own_places() {
        let places = LinkLimiter::default();
        let taken: Vec<_> = (0..EVENTS_PER_LINK).map(|_| places.take(IfIndex(1)).unwrap()).collect();
        assert!(places.take(IfIndex(1)).is_none() && places.take(IfIndex(2)).is_some());
        drop(taken);
        assert!(places.take(IfIndex(1)).is_some());
        assert!(places.0.lock().unwrap().is_empty(), "what is not used is not remembered");
    }
}
