//! What the agent hears of: the guard's events, and endpoints that leave this node.

use std::sync::Arc;

use futures::StreamExt;
use holdfast_api::endpoint::{NODE_LABEL, SpiderEndpoint};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::Semaphore;

use crate::{
    attach::Attach,
    datapath::{DatapathError, Events},
};

/// Events that are worked on at the same time. One that needs the API server must not keep the others waiting; a flood
/// must not fill the memory. What comes beyond that waits in the ring, where the kernel counts what it loses.
const AT_ONCE: usize = 32;

/// Hands on what the guard sees. Ends only when the ring cannot be read any more.
pub async fn guard(mut events: Events, attach: Attach) -> anyhow::Result<()> {
    let free = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        match events.next().await {
            Ok(event) => {
                let (attach, place) = (attach.clone(), Arc::clone(&free).acquire_owned().await?);
                tokio::spawn(async move {
                    attach.handle(&event).await;
                    drop(place);
                });
            }
            Err(error @ DatapathError::Event { .. }) => tracing::warn!(%error, "passed over an event"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Follows the endpoints that are bound on this node. One that goes has moved away, or is gone: nothing here may use its
/// addresses any more.
pub async fn endpoints(client: Client, node: String, attach: Attach) -> anyhow::Result<()> {
    let config = watcher::Config::default().labels(&format!("{NODE_LABEL}={node}"));
    let mut events = std::pin::pin!(watcher(Api::<SpiderEndpoint>::all(client), config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Delete(endpoint)) => attach.endpoint_left(&endpoint).await,
            Ok(watcher::Event::Apply(endpoint)) => attach.endpoint_written(endpoint),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the watch of this node's endpoints was cut off and starts again"),
        }
    }
    anyhow::bail!("the watch of this node's endpoints ended")
}
