//! The stream of the guard's events.

use std::collections::VecDeque;

use async_trait::async_trait;
use holdfast_core::id::{IfIndex, PodName};
use holdfast_guard::{DatapathError, EventKind, GuardEvent, GuardMetrics};
use holdfast_net::LinkSpec;

use super::world::{FIRST, World, event, exit, spec};
use crate::node::{backend::EventSource, handle_events};

/// Events that are there, and then the end of the stream.
struct Stream(VecDeque<Result<GuardEvent, DatapathError>>);

#[async_trait]
impl EventSource for Stream {
    async fn next(&mut self) -> Result<GuardEvent, DatapathError> {
        self.0.pop_front().unwrap_or(Err(DatapathError::Missing("more events")))
    }
}

async fn handle(world: &World, events: Vec<Result<GuardEvent, DatapathError>>) {
    let (driver, reconciler) = (world.node.driver.clone(), world.node.reconciler.clone());
    let ended = handle_events(Stream(events.into()), driver, reconciler, GuardMetrics::default()).await;
    assert!(ended.unwrap_err().to_string().contains("more events"));
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_skipped() {
    let mut world = World::with_pod().await;
    handle(&world, vec![Err(DatapathError::Event { length: 3 }), Ok(event(EventKind::Stale, FIRST))]).await;
    assert_eq!(world.reasons(), ["StaleContainerFenced"]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_on_one_link_keeps_no_other_links_events_away() {
    let mut world = World::with_pod().await;
    let other = LinkSpec { pod: PodName::new("default", "other"), ..spec("c5") };
    let second = world.fakes.links.put(&other, &[]);
    let mut events: Vec<_> = (0..100)
        .map(|last| Ok(GuardEvent { address: [10, 0, 0, last].into(), ..event(EventKind::Foreign, FIRST) }))
        .collect();
    events.push(Ok(event(EventKind::Foreign, second)));
    handle(&world, events).await;
    let pods: Vec<_> = world.recorded().into_iter().map(|event| format!("{:?}", event.regarding)).collect();
    assert_eq!(pods.iter().filter(|pod| pod.contains("web-0")).count(), 4, "{pods:?}");
    assert_eq!(pods.iter().filter(|pod| pod.contains("other")).count(), 1, "{pods:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_sandbox_is_never_passed_over() {
    let world = World::with_pod().await;
    let mut events: Vec<_> = (0..100).map(|_| Ok(event(EventKind::Foreign, IfIndex(0)))).collect();
    world.fakes.processes.end(101);
    events.push(Ok(exit("c1", 101)));
    handle(&world, events).await;
    assert_eq!(world.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn lost_events_ask_for_a_reconciliation() {
    struct Losing<'a>(&'a World, u8);
    #[async_trait]
    impl EventSource for Losing<'_> {
        async fn next(&mut self) -> Result<GuardEvent, DatapathError> {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            self.1 += 1;
            match self.1 {
                1 => Ok(event(EventKind::Stale, IfIndex(99))),
                2 => {
                    self.0.fakes.guard.lose_event();
                    Ok(event(EventKind::Stale, IfIndex(99)))
                }
                _ => std::future::pending().await,
            }
        }
    }
    let world = World::with_pod().await;
    let running = tokio::spawn(world.node.reconciler.clone().run());
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    world.done();
    let (driver, reconciler) = (world.node.driver.clone(), world.node.reconciler.clone());
    let handling = handle_events(Losing(&world, 0), driver, reconciler, GuardMetrics::default());
    drop(tokio::time::timeout(std::time::Duration::from_secs(5), handling).await);
    running.abort();
    assert!(world.done().contains(&"records.list".to_owned()));
}
