//! Kubernetes events of the agent and the controller: one bounded queue, and one task that writes it.
//!
//! ```text
//! record(), record_for_pod() ─▶ EventRecorder ─▶ queue ─▶ EventQueue::write ─▶ events.k8s.io
//!                                    └─ full: dropped, on_drop()
//! ```
//!
//! Recording never waits: the caller's own work goes before its events. A test keeps the [`EventQueue`] and reads the
//! recorded events from it; it needs no API server.

mod rate_limit;

use std::{sync::Arc, time::Duration};

use holdfast_core::id::PodName;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
pub use kube::runtime::events::EventType;
use kube::{
    Resource,
    runtime::events::{Event, Recorder, Reporter},
};
use tokio::sync::mpsc;

use crate::{endpoint::STATEFUL_SET, store::Store};

pub use rate_limit::EventRateLimit;

/// The number of events that wait to be written: one for each object that the controller collects in one pass, and more
/// than two for each of the 110 pods that a node may have.
const QUEUE_DEPTH: usize = 256;
/// The pause after each event. Thousands of events in a row would cost the API server as much as the work that they
/// report.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);

/// The object or objects that an event is written on.
#[derive(Debug, Clone, PartialEq)]
pub enum Regarding {
    /// This object.
    Object(Box<ObjectReference>),
    /// The pod of this name, and the StatefulSet that owns it. The pod is read when the event is written; if there is
    /// none, no event is written.
    Pod(PodName),
}

/// An event that waits to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// The object or objects that the event is written on.
    pub regarding: Regarding,
    /// The severity.
    pub type_: EventType,
    /// The reason, in `PascalCase`.
    pub reason: &'static str,
    /// The action. The API server counts events of one object, reason and action as one series, whatever their notes
    /// say; events that must stay apart need different actions.
    pub action: String,
    /// The message.
    pub note: String,
}

/// Puts events into the queue. Clones share the queue.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<RecordedEvent>,
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

impl EventRecorder {
    /// Returns a recorder and the queue that it fills. `on_drop` is called once for each event that is recorded while the
    /// queue is full, or that [`EventQueue::write`] may not write.
    pub fn new(on_drop: impl Fn() + Send + Sync + 'static) -> (Self, EventQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE_DEPTH);
        let on_drop: Arc<dyn Fn() + Send + Sync> = Arc::new(on_drop);
        let queue = EventQueue { receiver, on_drop: Arc::clone(&on_drop) };
        (Self { queue: sender, on_drop }, queue)
    }

    /// Records an event on one object.
    pub fn record(
        &self,
        regarding: ObjectReference,
        type_: EventType,
        reason: &'static str,
        action: impl Into<String>,
        note: impl Into<String>,
    ) {
        let regarding = Regarding::Object(Box::new(regarding));
        self.push(RecordedEvent { regarding, type_, reason, action: action.into(), note: note.into() });
    }

    /// Records an event on a pod and on the StatefulSet that owns it.
    pub fn record_for_pod(
        &self,
        pod: &PodName,
        type_: EventType,
        reason: &'static str,
        action: impl Into<String>,
        note: impl Into<String>,
    ) {
        let regarding = Regarding::Pod(pod.clone());
        self.push(RecordedEvent { regarding, type_, reason, action: action.into(), note: note.into() });
    }

    fn push(&self, event: RecordedEvent) {
        if self.queue.try_send(event).is_err() {
            (self.on_drop)();
        }
    }
}

/// The events that wait to be written, in the order in which they were recorded.
pub struct EventQueue {
    receiver: mpsc::Receiver<RecordedEvent>,
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

impl EventQueue {
    /// Takes the oldest event; none if the queue is empty.
    pub fn try_next(&mut self) -> Option<RecordedEvent> {
        self.receiver.try_recv().ok()
    }

    /// Writes the events through `store`'s client, one after the other, until every recorder of this queue is gone. An
    /// event whose turn comes while `store` may not write is dropped: its subject is the next leader's to report.
    /// `controller` and `instance` become the events' `reportingController` and `reportingInstance`.
    pub async fn write(mut self, store: Store, controller: &str, instance: &str) {
        let reporter = Reporter { controller: controller.to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(store.client().clone(), reporter);
        while let Some(event) = self.receiver.recv().await {
            if !store.may_write() {
                (self.on_drop)();
                continue;
            }
            for regarding in references(&store, &event.regarding).await {
                publish(&recorder, &event, &regarding).await;
                tokio::time::sleep(WRITE_INTERVAL).await;
            }
        }
    }
}

/// Returns the objects that an event is written on.
async fn references(store: &Store, regarding: &Regarding) -> Vec<ObjectReference> {
    match regarding {
        Regarding::Object(object) => vec![object.as_ref().clone()],
        Regarding::Pod(name) => match store.pod(name).await {
            Ok(pod) => pod.iter().flat_map(pod_and_stateful_set).collect(),
            Err(error) => {
                tracing::warn!(pod = %name, %error, "an event was not written: its pod could not be read");
                Vec::new()
            }
        },
    }
}

/// Returns the references to a pod and to the StatefulSet that owns it, if one does.
fn pod_and_stateful_set(pod: &Pod) -> Vec<ObjectReference> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.kind == STATEFUL_SET);
    let stateful_set = owner.map(|owner| ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: pod.metadata.namespace.clone(),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    });
    [pod.object_ref(&())].into_iter().chain(stateful_set).collect()
}

async fn publish(recorder: &Recorder, event: &RecordedEvent, regarding: &ObjectReference) {
    let RecordedEvent { type_, reason, action, note, .. } = event;
    let written = Event {
        type_: *type_,
        reason: (*reason).to_owned(),
        note: Some(note.clone()),
        action: action.clone(),
        secondary: None,
    };
    match recorder.publish(&written, regarding).await {
        Ok(()) => {}
        Err(error) if is_namespace_terminating(&error) => {
            tracing::debug!(reason, note, %error, "an event was not written: its namespace is being deleted");
        }
        Err(error) => tracing::warn!(reason, note, %error, "an event was not written"),
    }
}

fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_queued_in_order_and_dropped_when_the_queue_is_full() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&dropped);
        let (recorder, mut queue) = EventRecorder::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for number in 0..QUEUE_DEPTH + 3 {
            let pod = PodName::new("default", "web-0");
            recorder.record_for_pod(&pod, EventType::Warning, "SourceViolation", "Guard", number.to_string());
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        let notes: Vec<_> = std::iter::from_fn(|| queue.try_next()).map(|event| event.note).collect();
        assert_eq!(notes.len(), QUEUE_DEPTH);
        assert_eq!((notes[0].as_str(), notes[255].as_str()), ("0", "255"));
    }

    #[test]
    fn an_event_keeps_its_object_type_reason_action_and_note() {
        let (recorder, mut queue) = EventRecorder::new(|| {});
        let pool = ObjectReference { name: Some("p".into()), ..ObjectReference::default() };
        recorder.record(pool.clone(), EventType::Normal, "PodGone", "Release", "released 10.0.0.1");
        let expected = RecordedEvent {
            regarding: Regarding::Object(Box::new(pool)),
            type_: EventType::Normal,
            reason: "PodGone",
            action: "Release".into(),
            note: "released 10.0.0.1".into(),
        };
        assert_eq!(queue.try_next(), Some(expected));
        assert_eq!(queue.try_next(), None);
    }

    #[test]
    fn a_pods_event_is_written_on_its_stateful_set_too() {
        let pod = |kind: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "web-0", "namespace": "d", "uid": "p", "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "s"}
                ]}}),
            )
            .unwrap()
        };
        let names = |pod: &Pod| -> Vec<_> {
            let references = pod_and_stateful_set(pod).into_iter();
            references
                .map(|object| {
                    (object.kind.unwrap(), object.namespace.unwrap(), object.name.unwrap(), object.uid.unwrap())
                })
                .collect()
        };
        let text =
            |kind: &str, name: &str, uid: &str| (kind.to_owned(), "d".to_owned(), name.to_owned(), uid.to_owned());
        assert_eq!(names(&pod("StatefulSet")), [text("Pod", "web-0", "p"), text("StatefulSet", "web", "s")]);
        assert_eq!(names(&pod("ReplicaSet")), [text("Pod", "web-0", "p")]);
    }
}
