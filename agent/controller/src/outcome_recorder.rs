//! Each decision, told three ways: a log line, a Kubernetes event, a count. All carry the reason's name.

use std::{fmt::Display, net::IpAddr};

use holdfast_api::{
    event_recorder::{EventRecorder, EventType},
    store::{Store, StoreError},
};
use holdfast_core::{collect::Reason, id::PodName};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::metrics::ControllerMetrics;

#[derive(Clone)]
pub(super) struct OutcomeRecorder {
    events: EventRecorder,
    metrics: ControllerMetrics,
}

impl OutcomeRecorder {
    /// A report whose events are written by a task of its own, one after the other: they must not crowd out the
    /// collector's writes. Those of a leader that leads no more are not written: what they say may be another's to tell.
    pub(super) fn start(
        store: Store,
        instance: &str,
        metrics: ControllerMetrics,
        tasks: &mut tokio::task::JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let dropped = metrics.clone();
        let (events, queue) = EventRecorder::new(move || dropped.event_dropped());
        let instance = instance.to_owned();
        tasks.spawn(async move {
            queue.write(store, "holdfast-controller", &instance).await;
            Ok(())
        });
        Self { events, metrics }
    }

    pub(super) fn unbound(&self, pod: &PodName, about: ObjectReference, reason: Reason) {
        let note = "its container is gone; its addresses stay reserved";
        tracing::info!(%pod, reason = reason.as_str(), "unbound an endpoint: {note}");
        self.metrics.unbound(reason);
        self.event(about, "Unbind", reason, note.to_owned());
    }

    pub(super) fn released(&self, pod: &PodName, about: ObjectReference, reason: Reason, addresses: &[IpAddr]) {
        tracing::info!(%pod, reason = reason.as_str(), ?addresses, "released an endpoint and its addresses");
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        self.metrics.collected(reason, addresses.len());
        self.event(about, "Release", reason, format!("released {}", addresses.join(", ")));
    }

    pub(super) fn claim(&self, address: IpAddr, endpoint: &str, about: ObjectReference, reason: Reason) {
        tracing::info!(%address, endpoint, reason = reason.as_str(), "collected a claim");
        if reason == Reason::Unlisted {
            self.metrics.collected(reason, 1);
            self.event(about, "Mark", reason, format!("no endpoint lists {address}; it was claimed for {endpoint}"));
        }
    }

    pub(super) fn claimed(&self, pod: &PodName, about: ObjectReference, reason: Reason, address: IpAddr) {
        tracing::info!(%pod, %address, reason = reason.as_str(), "claimed an address that is in use");
        self.metrics.claimed(reason);
        self.event(about, "Claim", reason, format!("claimed {address}, which it uses"));
    }

    /// Two have one address. Nobody is evicted on suspicion: people have to know.
    pub(super) fn taken(&self, pod: &PodName, about: ObjectReference, address: IpAddr, holder: &str) {
        let reason = Reason::AddressTaken;
        tracing::warn!(%pod, %address, holder, reason = reason.as_str(), "an address in use is claimed for another");
        let note = format!("{address}, which it uses, is claimed for {holder}: one of the two has to be made anew");
        self.warning(about, "OutcomeRecorder", reason, note);
    }

    pub(super) fn not_claimed(&self, what: &impl Display, error: &StoreError) {
        match error {
            StoreError::Conflict { .. } | StoreError::NotLeading { .. } => {
                tracing::debug!(%what, %error, "an address in use was not claimed; looking again");
            }
            StoreError::Api { .. } => {
                self.metrics.failed();
                tracing::warn!(%what, %error, "an address in use was not claimed; trying again");
            }
        }
    }

    pub(super) fn failed(&self, what: &impl Display, error: &StoreError) {
        if error.is_conflict() {
            tracing::debug!(%what, %error, "somebody else's write came first; looking again");
            return;
        }
        self.metrics.failed();
        tracing::warn!(%what, %error, "this looks leaked, but was not collected; trying again");
    }

    fn event(&self, about: ObjectReference, action: &str, reason: Reason, note: String) {
        self.send(EventType::Normal, about, action, reason, note);
    }

    fn warning(&self, about: ObjectReference, action: &str, reason: Reason, note: String) {
        self.send(EventType::Warning, about, action, reason, note);
    }

    fn send(&self, type_: EventType, about: ObjectReference, action: &str, reason: Reason, note: String) {
        self.events.record(about, type_, reason.as_str(), action, note);
    }
}
