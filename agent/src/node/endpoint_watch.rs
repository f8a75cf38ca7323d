//! The endpoints that are bound on this node. One that leaves has moved away, or is gone: nothing here may use its
//! addresses any more.

use futures::StreamExt;
use holdfast_api::{
    endpoint::SpiderEndpoint,
    labels::{NODE_LABEL, label_value},
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use super::reconcile::Reconciler;

/// Follows the endpoints of `node`. Returns only if the watch ends, which it should not.
pub async fn watch_endpoints(client: Client, node: String, reconciler: Reconciler) -> anyhow::Result<()> {
    let config = watcher::Config::default().labels(&format!("{NODE_LABEL}={}", label_value(&node)));
    let mut events = std::pin::pin!(watcher(Api::<SpiderEndpoint>::all(client), config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Delete(endpoint)) => reconciler.endpoint_left(&endpoint).await,
            Ok(watcher::Event::Apply(endpoint)) => reconciler.endpoint_written(endpoint),
            // An endpoint that left while the watch was cut off is only missing in the new list.
            Ok(watcher::Event::InitDone) => reconciler.request(),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Err(error) => tracing::warn!(%error, "the watch of this node's endpoints was cut off and starts again"),
        }
    }
    anyhow::bail!("the watch of this node's endpoints ended")
}
