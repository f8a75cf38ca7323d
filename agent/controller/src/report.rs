//! Each decision, told three ways: a log line, a Kubernetes event, a count. All carry the reason's name.

use std::{fmt::Display, net::IpAddr, time::Duration};

use holdfast_api::store::{StoreError, WriteGate};
use holdfast_core::{collect::Reason, id::PodName};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use crate::metrics::ControllerMetrics;

/// Events that wait to be written. Collecting goes before telling: what does not fit is dropped and counted.
const WAITING: usize = 256;
/// Between two events: thousands of them would cost an API server as much as the collection that they tell of.
const BETWEEN: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct Report {
    events: mpsc::Sender<(Event, ObjectReference)>,
    metrics: ControllerMetrics,
}

impl Report {
    /// A report whose events are written by a task of its own, one after the other: they must not crowd out the
    /// collector's writes. Those of a leader that leads no more are not written: what they say may be another's to tell.
    pub(super) fn start(
        client: &Client,
        instance: &str,
        gate: WriteGate,
        metrics: ControllerMetrics,
        tasks: &mut tokio::task::JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let reporter = Reporter { controller: "holdfast-controller".to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let (events, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let dropped = metrics.clone();
        tasks.spawn(async move {
            while let Some((event, about)) = waiting.recv().await {
                if !gate.is_open() {
                    dropped.event_dropped();
                    continue;
                }
                // A namespace that is going takes no new events.
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::debug!(reason = event.reason, %error, "an event was not written");
                }
                tokio::time::sleep(BETWEEN).await;
            }
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
        self.warning(about, "Report", reason, note);
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
        let event = Event {
            type_,
            reason: reason.as_str().to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if self.events.try_send((event, about)).is_err() {
            self.metrics.event_dropped();
        }
    }
}
