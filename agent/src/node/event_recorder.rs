//! What people are told of the guard: Kubernetes events on the pod and its StatefulSet, not more of them than somebody
//! can read.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use holdfast_core::{
    binding::Report,
    id::{IfIndex, PodName},
};
use holdfast_guard::GuardEvent;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::Attach;

/// The same thing about the same pod and address is told once in this time.
const AGAIN: Duration = Duration::from_secs(30);
/// Of how many addresses the same thing is told about one pod in this time: one that walks through a subnet has no end.
const ADDRESSES: usize = 8;

/// Writes events, and remembers what it has told.
pub(super) struct People {
    recorder: Recorder,
    news: News,
}

/// What was told lately.
#[derive(Default)]
struct News(Mutex<HashMap<(PodName, Report), Told>>);

/// What was told of a pod.
struct Told {
    since: Instant,
    addresses: HashSet<IpAddr>,
}

impl News {
    fn is(&self, subject: &PodName, report: Report, address: IpAddr) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, told| told.since.elapsed() < AGAIN);
        let first = || Told { since: Instant::now(), addresses: HashSet::new() };
        let addresses = &mut told.entry((subject.clone(), report)).or_insert_with(first).addresses;
        addresses.len() < ADDRESSES && addresses.insert(address)
    }
}

impl People {
    pub(super) fn new(client: Client, node: String) -> Self {
        let reporter = Reporter { controller: "holdfast-agent".to_owned(), instance: Some(node) };
        Self { recorder: Recorder::new(client, reporter), news: News::default() }
    }

    /// The API server's events are told apart by reason and action, not by what they say: `about` makes those of different
    /// addresses different.
    async fn publish(&self, pod: &Pod, type_: EventType, reason: &str, about: &str, note: &str) {
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
                action: about.to_owned(),
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
            Some(link) => self.attachment(link).await.ok().flatten(),
            None => None,
        };
        let holder = match seen.holder {
            Some(holder) => self.attachment(holder.link).await.ok().flatten(),
            None => None,
        };
        let Some(subject) = blamed.as_ref().or(holder.as_ref()).map(|attachment| attachment.pod.clone()) else {
            tracing::warn!(reason = report.as_str(), %address, mac = %seen.mac, "seen on a link that is nobody's");
            return;
        };
        if !self.people.news.is(&subject, report, address) {
            return;
        }
        let container = |attachment: Option<&super::Attachment>| {
            attachment.map_or("unknown".to_owned(), |attachment| attachment.container.to_string())
        };
        let used = format!("{} (MAC {})", container(blamed.as_ref()), seen.mac);
        let held = match seen.holder {
            Some(there) => {
                format!("its holder is container {} (MAC {})", container(holder.as_ref()), there.mac)
            }
            None => "nobody on this node holds it".to_owned(),
        };
        let fate = if seen.dropped { "dropped" } else { "seen, not dropped" };
        let note = match report {
            Report::StaleContainerFenced => {
                format!("{address}: container {used} still used it; {held}; packets are {fate}")
            }
            Report::SourceViolation => {
                format!("{address}: container {used} used it, and it is not its own; {held}; packets are {fate}")
            }
            Report::AddressConflict => {
                format!("{address}: a host on the LAN with MAC {} claims it; {held}", seen.mac)
            }
        };
        tracing::warn!(pod = %subject, kind = ?seen.kind, via = ?seen.via, address = %address, dropped = seen.dropped, reason = report.as_str(), "{note}");
        self.tell_pod(&subject, EventType::Warning, report.as_str(), &about(address), &note).await;
    }

    /// Writes an event on a pod and its StatefulSet.
    pub(super) async fn tell_pod(&self, name: &PodName, type_: EventType, reason: &str, about: &str, note: &str) {
        match self.ipam.pod(name).await {
            Ok(Some(pod)) => self.people.publish(&pod, type_, reason, about, note).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(pod = %name, %error, "the event's pod was not read"),
        }
    }
}

/// An event's action, for what the guard did about an address.
fn about(address: IpAddr) -> String {
    format!("Guard {address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_of_once_for_each_address_and_not_without_end() {
        let (news, pod, other) = (News::default(), PodName::new("n", "a"), PodName::new("n", "b"));
        let is = |pod: &PodName, last: u8| news.is(pod, Report::SourceViolation, [10, 0, 0, last].into());
        assert!(is(&pod, 1) && !is(&pod, 1));
        assert_eq!((2..=200).filter(|last| is(&pod, *last)).count(), ADDRESSES - 1);
        assert!(is(&other, 1), "one pod's walk hides nothing of another's");
    }
}
