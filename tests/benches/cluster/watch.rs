//! A watch of endpoints.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt};
use holdfast_api::endpoint::{Holder, SpiderEndpoint};
use kube::{
    Api, ResourceExt,
    runtime::watcher::{self, Event, watcher},
};

const LIMIT: Duration = Duration::from_secs(60);

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<SpiderEndpoint>>> + Send>>;

/// A watch that has begun: nothing that is written from here on is missed.
pub(crate) struct Watch(Events);

impl Watch {
    pub(crate) async fn begin(endpoints: Api<SpiderEndpoint>) -> Result<Self> {
        let mut watch = Self(watcher(endpoints, watcher::Config::default()).boxed());
        while !matches!(watch.next().await?, Event::InitDone) {}
        Ok(watch)
    }

    async fn next(&mut self) -> Result<Event<SpiderEndpoint>> {
        Ok(self.0.next().await.context("the watch of the endpoints ended")??)
    }

    /// Waits until a pod's record is as wanted; returns it with the time at which the watch reported it.
    pub(crate) async fn record(&mut self, pod: &str, wanted: impl Fn(&Holder) -> bool) -> Result<(Holder, Instant)> {
        let look = async {
            loop {
                let Event::Apply(endpoint) = self.next().await? else { continue };
                let name = endpoint.name_any();
                if let Some(status) = endpoint.status.filter(|status| name == pod && wanted(&status.current)) {
                    return Ok((status.current, Instant::now()));
                }
            }
        };
        match tokio::time::timeout(LIMIT, look).await {
            Ok(found) => found,
            Err(_) => bail!("the record of {pod} is not as it should be within {LIMIT:?}"),
        }
    }
}

/// Returns true if the record names this container.
pub(crate) fn names(holder: &Holder, container: &str) -> bool {
    holder.container_id.as_ref().is_some_and(|there| there.as_str() == container)
}
