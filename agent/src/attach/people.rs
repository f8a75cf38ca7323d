//! What people are told of the guard: Kubernetes events on the pod and its StatefulSet, not more of them than somebody
//! can read.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use holdfast_core::{
    binding::Report,
    id::{IfIndex, PodName},
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::Attach;
use crate::{datapath::GuardEvent, net::Mac};

/// The same thing about the same pod and address is told once in this time.
const AGAIN: Duration = Duration::from_secs(30);
/// Told things that are remembered. Beyond it the oldest are forgotten first, which only means telling them again.
const REMEMBERED: usize = 1024;

/// Writes events, and remembers what it has told.
pub(super) struct People {
    recorder: Recorder,
    told: Mutex<HashMap<(String, Report, IpAddr), Instant>>,
}

impl People {
    pub(super) fn new(client: Client, node: String) -> Self {
        let reporter = Reporter { controller: "holdfast-agent".to_owned(), instance: Some(node) };
        Self { recorder: Recorder::new(client, reporter), told: Mutex::default() }
    }

    fn is_news(&self, subject: &str, report: Report, address: IpAddr) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, when| when.elapsed() < AGAIN);
        if told.len() >= REMEMBERED {
            told.clear();
        }
        let key = (subject.to_owned(), report, address);
        let news = !told.contains_key(&key);
        told.entry(key).or_insert_with(Instant::now);
        news
    }

    async fn publish(&self, pod: &Pod, type_: EventType, reason: &str, note: &str) {
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "StatefulSet");
        let owner = owner.map(|owner| ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            namespace: pod.metadata.namespace.clone(),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        });
        for subject in [Some(pod.object_ref(&())), owner].into_iter().flatten() {
            let event = Event {
                type_: match type_ {
                    EventType::Normal => EventType::Normal,
                    EventType::Warning => EventType::Warning,
                },
                reason: reason.to_owned(),
                note: Some(note.to_owned()),
                action: "Guard".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &subject).await {
                tracing::warn!(%error, reason, note, "the event was not written");
            }
        }
    }
}

impl Attach {
    /// Tells what the guard saw, in the log and as events of the pod that is to blame, or whose address it is.
    pub(super) async fn tell(&self, link: Option<IfIndex>, address: IpAddr, report: Report, seen: &GuardEvent) {
        let blamed = match link {
            Some(link) => self.tenant(link).await.ok().flatten(),
            None => None,
        };
        let holder = match seen.holder {
            Some(holder) => self.tenant(holder.link).await.ok().flatten(),
            None => None,
        };
        let Some(subject) = blamed.as_ref().or(holder.as_ref()).map(|tenant| tenant.pod.clone()) else {
            tracing::warn!(reason = report.as_str(), %address, mac = %Mac(seen.mac), "seen on a link that is nobody's");
            return;
        };
        if !self.people.is_news(&subject.to_string(), report, address) {
            return;
        }
        let container =
            |tenant: Option<&super::Tenant>| tenant.map_or("unknown".to_owned(), |tenant| tenant.container.to_string());
        let used = format!("{} (MAC {})", container(blamed.as_ref()), Mac(seen.mac));
        let held = seen.holder.map(|there| format!("{} (MAC {})", container(holder.as_ref()), Mac(there.mac)));
        let held = held.unwrap_or_else(|| "nobody here".to_owned());
        let fate = if seen.dropped { "dropped" } else { "seen, not dropped" };
        let note = match report {
            Report::StaleContainerFenced => {
                format!("{address}: container {used} still used it; its holder is container {held}; packets are {fate}")
            }
            Report::SourceViolation => {
                format!(
                    "{address}: container {used} used it, and it is not its own; its holder is container {held}; packets are {fate}"
                )
            }
            Report::AddressConflict => {
                format!(
                    "{address}: a host on the LAN with MAC {} claims it; its holder is container {held}",
                    Mac(seen.mac)
                )
            }
        };
        tracing::warn!(pod = %subject, kind = ?seen.kind, via = ?seen.via, address = %address, dropped = seen.dropped, reason = report.as_str(), "{note}");
        self.tell_pod(&subject, EventType::Warning, report.as_str(), &note).await;
    }

    /// Writes an event on a pod and its StatefulSet.
    pub(super) async fn tell_pod(&self, name: &PodName, type_: EventType, reason: &str, note: &str) {
        match self.ipam.pod(name).await {
            Ok(Some(pod)) => self.people.publish(&pod, type_, reason, note).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(pod = %name, %error, "the event's pod was not read"),
        }
    }
}
