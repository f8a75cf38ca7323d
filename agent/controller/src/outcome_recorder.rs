//! The outcome of each decision, recorded in three places under one reason: a log line, a Kubernetes event, a metric.

use std::{fmt::Display, net::IpAddr};

use holdfast_api::{
    event_recorder::{EventRecorder, EventType},
    store::{Store, StoreError},
};
use holdfast_core::{collect::Reason, id::PodName};
use k8s_openapi::api::core::v1::ObjectReference;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::task::JoinSet;

/// Records the outcome of each decision.
#[derive(Clone)]
pub(crate) struct OutcomeRecorder {
    events: EventRecorder,
    metrics: OutcomeMetrics,
}

impl OutcomeRecorder {
    /// Returns a recorder whose events a task of its own writes through `store`, one after the other, so that they do not
    /// crowd out the collector's writes.
    pub(crate) fn start(
        store: Store,
        instance: &str,
        metrics: OutcomeMetrics,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let dropped = metrics.events_dropped.clone();
        let (events, queue) = EventRecorder::new(move || {
            dropped.inc();
        });
        let instance = instance.to_owned();
        tasks.spawn(async move {
            queue.write(store, "holdfast-controller", &instance).await;
            Ok(())
        });
        Self { events, metrics }
    }

    /// Records that an endpoint lost its holder.
    pub(crate) fn unbound(&self, pod: &PodName, regarding: ObjectReference, reason: Reason) {
        let note = "its container is gone; its addresses stay reserved";
        tracing::info!(%pod, reason = reason.as_str(), "unbound an endpoint: {note}");
        self.metrics.unbound(reason);
        self.event(EventType::Normal, regarding, "Unbind", reason, note.to_owned());
    }

    /// Records that an endpoint was deleted and its addresses released.
    pub(crate) fn released(&self, pod: &PodName, regarding: ObjectReference, reason: Reason, addresses: &[IpAddr]) {
        tracing::info!(%pod, reason = reason.as_str(), ?addresses, "released an endpoint and its addresses");
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        self.metrics.collected(reason, addresses.len());
        self.event(EventType::Normal, regarding, "Release", reason, format!("released {}", addresses.join(", ")));
    }

    /// Records that a claim was marked as released, or deleted.
    pub(crate) fn claim_collected(&self, address: IpAddr, endpoint: &str, regarding: ObjectReference, reason: Reason) {
        tracing::info!(%address, endpoint, reason = reason.as_str(), "collected a claim");
        if reason == Reason::Unlisted {
            self.metrics.collected(reason, 1);
            let note = format!("no endpoint lists {address}; it was claimed for {endpoint}");
            self.event(EventType::Normal, regarding, "Mark", reason, note);
        }
    }

    /// Records that a claim was created for an address in use.
    pub(crate) fn claim_created(&self, pod: &PodName, regarding: ObjectReference, reason: Reason, address: IpAddr) {
        tracing::info!(%pod, %address, reason = reason.as_str(), "claimed an address that is in use");
        self.metrics.claimed(reason);
        self.event(EventType::Normal, regarding, "Claim", reason, format!("claimed {address}, which it uses"));
    }

    /// Records that two endpoints list one address. Neither is evicted: an operator has to decide.
    pub(crate) fn address_taken(&self, pod: &PodName, regarding: ObjectReference, address: IpAddr, holder: &str) {
        let reason = Reason::AddressTaken;
        tracing::warn!(%pod, %address, holder, reason = reason.as_str(), "an address in use is claimed for another endpoint");
        let note = format!("{address}, which it uses, is claimed for {holder}: one of the two has to be made anew");
        self.event(EventType::Warning, regarding, "Report", reason, note);
    }

    /// Records that a missing claim could not be created. The caller looks again.
    pub(crate) fn claim_failed(&self, subject: &impl Display, error: &StoreError) {
        match error {
            StoreError::Conflict { .. } | StoreError::NotLeading { .. } => {
                tracing::debug!(what = %subject, %error, "an address in use was not claimed; looking again");
            }
            StoreError::Api { .. } => {
                self.metrics.failures.inc();
                tracing::warn!(what = %subject, %error, "an address in use was not claimed; trying again");
            }
        }
    }

    /// Records that an object which looks leaked could not be collected. The caller looks again.
    pub(crate) fn collection_failed(&self, subject: &impl Display, error: &StoreError) {
        if error.is_conflict() {
            tracing::debug!(what = %subject, %error, "another write came first; looking again");
            return;
        }
        self.metrics.failures.inc();
        tracing::warn!(what = %subject, %error, "the object looks leaked, but was not collected; trying again");
    }

    fn event(&self, type_: EventType, regarding: ObjectReference, action: &str, reason: Reason, note: String) {
        self.events.record(regarding, type_, reason.as_str(), action, note);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counters of the outcomes. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct OutcomeMetrics {
    collected: Family<ReasonLabel, Counter>,
    unbound: Family<ReasonLabel, Counter>,
    claimed: Family<ReasonLabel, Counter>,
    failures: Counter,
    events_dropped: Counter,
}

impl OutcomeMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        registry.register("spiderpool_ip_gc_counts", "Addresses collected", new.collected.clone());
        registry.register("holdfast_unbound", "Endpoints whose holder was gone", new.unbound.clone());
        registry.register("holdfast_claimed", "Claims created for addresses that were in use", new.claimed.clone());
        registry.register("spiderpool_ip_gc_failure_counts", "Collections that failed", new.failures.clone());
        registry.register(
            "holdfast_events_dropped",
            "Kubernetes events not written because too many were waiting",
            new.events_dropped.clone(),
        );
        new
    }

    pub(crate) fn collected(&self, reason: Reason, addresses: usize) {
        let counter = self.collected.get_or_create(&ReasonLabel { reason: reason.as_str() });
        counter.inc_by(u64::try_from(addresses).unwrap_or(u64::MAX));
    }

    pub(crate) fn unbound(&self, reason: Reason) {
        self.unbound.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    pub(crate) fn claimed(&self, reason: Reason) {
        self.claimed.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_an_event_and_a_count_under_one_reason() {
        let (events, mut queue) = EventRecorder::new(|| {});
        let recorder = OutcomeRecorder { events, metrics: OutcomeMetrics::default() };
        let (pod, address) = (PodName::new("d", "web-0"), "10.0.0.1".parse().unwrap());
        let mut next_event = || queue.try_next().map(|event| (event.type_, event.reason, event.action, event.note));
        let expected =
            |type_, reason, action: &str, note: &str| Some((type_, reason, action.to_owned(), note.to_owned()));
        let object = ObjectReference::default;

        recorder.unbound(&pod, object(), Reason::NodeGone);
        let note = "its container is gone; its addresses stay reserved";
        assert_eq!(next_event(), expected(EventType::Normal, "NodeGone", "Unbind", note));
        recorder.released(&pod, object(), Reason::PodGone, &[address, "fd00::1".parse().unwrap()]);
        assert_eq!(next_event(), expected(EventType::Normal, "PodGone", "Release", "released 10.0.0.1, fd00::1"));
        recorder.claim_collected(address, "d/web-0", object(), Reason::Unlisted);
        let note = "no endpoint lists 10.0.0.1; it was claimed for d/web-0";
        assert_eq!(next_event(), expected(EventType::Normal, "Unlisted", "Mark", note));
        recorder.claim_created(&pod, object(), Reason::ClaimMissing, address);
        assert_eq!(
            next_event(),
            expected(EventType::Normal, "ClaimMissing", "Claim", "claimed 10.0.0.1, which it uses")
        );
        recorder.address_taken(&pod, object(), address, "d/other");
        let note = "10.0.0.1, which it uses, is claimed for d/other: one of the two has to be made anew";
        assert_eq!(next_event(), expected(EventType::Warning, "AddressTaken", "Report", note));
        recorder.claim_collected(address, "d/web-0", object(), Reason::CooldownOver);
        assert_eq!(next_event(), None, "the end of a cooldown is no news");

        let collected =
            |reason: Reason| recorder.metrics.collected.get_or_create(&ReasonLabel { reason: reason.as_str() }).get();
        assert_eq!(
            (collected(Reason::PodGone), collected(Reason::Unlisted), collected(Reason::CooldownOver)),
            (2, 1, 0)
        );
    }

    #[test]
    fn a_conflict_is_no_failure() {
        let recorder = OutcomeRecorder { events: EventRecorder::new(|| {}).0, metrics: OutcomeMetrics::default() };
        let conflict = StoreError::Conflict { what: "endpoint d/web-0".to_owned() };
        recorder.collection_failed(&"web-0", &conflict);
        recorder.claim_failed(&"web-0", &conflict);
        assert_eq!(recorder.metrics.failures.get(), 0);
        let source = Box::new(kube::Error::LinesCodecMaxLineLengthExceeded);
        let refused = StoreError::Api { verb: "write", what: "endpoint d/web-0".to_owned(), source };
        recorder.collection_failed(&"web-0", &refused);
        recorder.claim_failed(&"web-0", &refused);
        assert_eq!(recorder.metrics.failures.get(), 2);
    }
}
