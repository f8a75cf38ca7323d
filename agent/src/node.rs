//! The node side of the agent: the CNI verbs, the guard's driver, and the reconciler.
//!
//! ```text
//! plugin ─▶ Attachments (add, del, check, status, gc) ─┐
//! guard's events ─▶ guard_events ──────────────────────┼─▶ GuardDriver ─▶ backends: Links, Guard, Records,
//! watch of endpoints, clock ─▶ Reconciler ─────────────┘        │                   Processes, Namespaces
//!                                                               └─▶ EventRecorder ─▶ Kubernetes events
//! ```
//!
//! The driver owns what the node decides: the binding machine, the attachments by link, the sandboxes. Verbs and
//! reconciler work through it. A pod's lock is held by each verb from its first read to its last write, and by whatever
//! acts on a live read of the pod's records; the machine's lock is held while its decision is written to the guard's
//! map, and never across an await.
//!
//! As IPAM delegate the interface is another plugin's: the guard goes inside the pod's namespace.

mod actions;
mod add;
mod add_result;
mod attachment;
mod attachments;
pub mod backend;
mod background;
mod check;
mod cni_request;
mod del;
mod driver;
mod endpoint_watch;
mod error;
#[cfg(any(test, feature = "fakes"))]
pub mod fakes;
mod gc;
mod guard_events;
mod host_link;
mod pod_locks;
mod pod_netns;
mod reconcile;
mod reconcile_link;
mod sandbox;
mod sandbox_exit;
mod snapshot;
mod status;
mod violations;

use backend::Backends;
use holdfast_api::event_recorder::EventRecorder;
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::{DatapathError, GuardMetrics};

pub use self::{
    attachments::Attachments, driver::GuardDriver, endpoint_watch::watch_endpoints, error::NodeError,
    guard_events::handle_events, reconcile::Reconciler,
};

/// The parts of the node, which share one driver. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    /// The CNI verbs.
    pub attachments: Attachments,
    /// The driver, which takes the guard's events.
    pub driver: GuardDriver,
    /// The periodic reconciliation.
    pub reconciler: Reconciler,
}

impl Node {
    /// Returns the node over `backends`. What the guard enforces already is taken over. `mode` is the mode of pods
    /// without an annotation.
    pub fn new(
        backends: Backends,
        mode: GuardMode,
        metrics: GuardMetrics,
        events: EventRecorder,
    ) -> Result<Self, DatapathError> {
        let driver = GuardDriver::new(backends, mode, metrics, events)?;
        Ok(Self { attachments: Attachments::new(driver.clone()), reconciler: Reconciler::new(driver.clone()), driver })
    }

    /// Waits for the work that goes on after replies.
    pub async fn drain(&self) {
        self.driver.background.drain().await;
    }
}

#[cfg(test)]
mod tests;
