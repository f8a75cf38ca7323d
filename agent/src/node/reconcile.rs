//! The reconciler keeps kernel and records in step: on start, and again now and then. Whatever a crash, a lost event or
//! a change by hand left different is repaired here.
//!
//! ```text
//! machine ↔ maps      what the kernel enforces is what was decided
//! maps ↔ links        a guarded link that is gone is detached; a link of ours without a guard gets one
//! links ↔ endpoints   a container that its endpoint names has its addresses; any other is fenced or rebound
//! links ↔ sandboxes   a live sandbox is watched; one that died unseen is handled as if its end had been reported
//! links ↔ pods        the mode is the one that the pod's annotation or the configuration asks for now
//! ```

use std::{collections::HashSet, sync::Arc, time::Duration};

use holdfast_api::endpoint::SpiderEndpoint;
use holdfast_core::id::{ContainerId, PodName};
use holdfast_guard::LinkRole;
use holdfast_net::HostLink;
use tokio::sync::Notify;

use super::{backend::Backends, driver::GuardDriver, error::NodeError, snapshot::Snapshot};

/// Between two full reconciliations.
const INTERVAL: Duration = Duration::from_secs(60);
/// The time that an ADD has from its record to its binding before the two are compared.
const ADD_GRACE: Duration = Duration::from_millis(500);
/// After a reconciliation that failed.
const RETRY: Duration = Duration::from_secs(2);

/// The periodic reconciliation. Clones share it.
#[derive(Clone)]
pub struct Reconciler {
    pub(super) backends: Backends,
    pub(super) driver: GuardDriver,
    /// A reconciliation is asked for before its time.
    requested: Arc<Notify>,
}

impl Reconciler {
    /// Returns the reconciler of a driver's node.
    pub(super) fn new(driver: GuardDriver) -> Self {
        Self { backends: driver.backends.clone(), driver, requested: Arc::default() }
    }

    /// Reconciles for as long as it is polled: every minute, and soon after [`Self::request`].
    pub async fn run(self) -> anyhow::Result<()> {
        loop {
            let pause = match self.reconcile().await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "the node was not reconciled with the records; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.requested.notified() => {}
            }
        }
    }

    /// Asks for a reconciliation: something may have been missed.
    pub fn request(&self) {
        self.requested.notify_one();
    }

    /// Handles the write of an endpoint of this node. A reconciliation follows if it names a container that the guard
    /// does not know once an ADD had time to end.
    pub fn endpoint_written(&self, endpoint: SpiderEndpoint) {
        let holder = endpoint.status.as_ref().and_then(|status| status.current.container_id.clone());
        let Some(container) = holder.filter(|container| !self.driver.is_guarded(container)) else { return };
        let reconciler = self.clone();
        self.driver.background.spawn(async move {
            tokio::time::sleep(ADD_GRACE).await;
            if !reconciler.driver.is_guarded(&container) {
                reconciler.endpoint_left(&endpoint).await;
            }
        });
    }

    /// Handles an endpoint that is no longer bound on this node. A reconciliation follows if anything of it is left
    /// here.
    pub async fn endpoint_left(&self, endpoint: &SpiderEndpoint) {
        let holder = endpoint.status.as_ref().and_then(|status| status.current.container_id.clone());
        let pod = endpoint.pod();
        let concerns = |of: &PodName, container: &ContainerId| *of == pod || holder.as_ref() == Some(container);
        let known = self.driver.attachments.find(|attachment| concerns(&attachment.pod, &attachment.container));
        // Links without a pod in their alias are left to the next reconciliation.
        let left = known.is_some()
            || self.backends.links.links().await.is_ok_and(|links| {
                links.iter().any(|link| link.pod.as_ref().is_some_and(|of| concerns(of, &link.container)))
            });
        if left {
            self.request();
        }
    }

    /// Compares everything once. A link that cannot be compared does not keep the others from it.
    pub(super) async fn reconcile(&self) -> Result<(), NodeError> {
        // Guarded links first: an ADD guards a link only after it has made it, so none is taken for gone.
        let guarded = self.backends.guard.links()?;
        let links = self.backends.links.links().await?;
        self.detach_missing(&guarded, &links)?;
        self.driver.repair_map()?;
        let records = &self.backends.records;
        let (endpoints, pods) = tokio::try_join!(records.endpoints_on_node(), records.pods_on_node())?;
        let snapshot = Snapshot::new(endpoints, &pods, self.backends.guard.bindings()?);
        self.reconcile_links(&links, &guarded, &snapshot).await;
        for (container, record) in &snapshot.holders {
            let has_link = links.iter().any(|link| link.container == *container)
                || guarded.iter().any(|link| link.info.container_tag == container.tag());
            if !has_link {
                self.attach_missing(container, record, &snapshot).await;
            }
        }
        self.check_watched_sandboxes().await?;
        self.backends.links.prune_proxies().await?;
        Ok(())
    }

    async fn reconcile_links(&self, links: &[HostLink], guarded: &[holdfast_guard::Link], snapshot: &Snapshot) {
        for link in links {
            let known = guarded.iter().find(|known| known.link == link.index && known.name == link.name);
            if let Err(error) = self.reconcile_link(link, known, snapshot).await {
                tracing::warn!(link = %link.name, container = %link.container, %error, "a link was not reconciled; the others are");
            }
            self.driver.check_sandbox(&link.container).await;
        }
        for link in guarded.iter().filter(|link| link.inside) {
            if let Err(error) = self.reconcile_pod_interface(link, snapshot).await {
                tracing::warn!(link = %link.link, name = %link.name, %error, "a link inside a pod was not reconciled; the others are");
            }
        }
    }

    /// Detaches links of the node that the kernel no longer has. Those inside of pods go with their namespaces.
    fn detach_missing(&self, guarded: &[holdfast_guard::Link], links: &[HostLink]) -> Result<(), NodeError> {
        let there: HashSet<_> = links.iter().map(|link| (link.index, &link.name)).collect();
        let gone = guarded
            .iter()
            .filter(|link| link.role == LinkRole::Pod && !link.inside && !there.contains(&(link.link, &link.name)));
        for link in gone {
            tracing::info!(link = %link.name, "forgot a guarded link that is gone");
            self.driver.detach(link)?;
        }
        Ok(())
    }

    /// Handles the ends of watched processes whose events were lost, or came while no agent ran.
    async fn check_watched_sandboxes(&self) -> Result<(), NodeError> {
        for (pid, tag) in self.backends.guard.sandboxes()? {
            if !self.backends.processes.is_running(pid).await {
                self.driver.sandbox_exited(tag, pid).await;
            }
        }
        Ok(())
    }
}
