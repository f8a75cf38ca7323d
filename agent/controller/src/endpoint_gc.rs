//! Endpoints whose pod, StatefulSet or node is gone.

use std::time::Duration;

use futures::{StreamExt, stream};
use holdfast_api::{
    annotations::retain_of,
    claim::name_of,
    endpoint::{EndpointStatus, HolderState, SpiderEndpoint},
    labels::NODE_LABEL,
    store::StoreError,
};
use holdfast_core::{
    collect::{self, EndpointFacts, FirstSeen, NodeFacts, PodFacts, Reason, SetFacts, SetKey, Termination, Verdict},
    id::{Generation, PodName},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Node, Pod},
};
use kube::{Resource, ResourceExt};

use super::{CONCURRENCY, Controller, Requeue};

/// The API server's default for a pod's grace period, in seconds.
const DEFAULT_GRACE: i64 = 30;

/// For how long things have been as they are, and of what that was seen. It says nothing of a pod, node or unbound that
/// has come since.
#[derive(Debug, Clone, Default)]
struct ObservedDurations {
    unbound: Option<UnboundPeriod>,
    unbound_for: Duration,
    pod: String,
    terminating: Duration,
    finished: Duration,
    node: String,
    node_gone: Duration,
}

impl ObservedDurations {
    /// What these times say of the objects as they are now.
    fn of(&self, pod: Option<&Pod>, record: &EndpointStatus) -> Self {
        let if_same = |same: bool, time: Duration| if same { time } else { Duration::ZERO };
        let (uid, node) = (pod.and_then(ResourceExt::uid).unwrap_or_default(), pod.map(node_name).unwrap_or_default());
        let unbound = UnboundPeriod::of(record);
        Self {
            unbound_for: if_same(unbound == self.unbound, self.unbound_for),
            terminating: if_same(uid == self.pod, self.terminating),
            finished: if_same(uid == self.pod, self.finished),
            node_gone: if_same(node == self.node, self.node_gone),
            unbound,
            pod: uid,
            node,
        }
    }
}

/// A time in which no container holds an endpoint's addresses: what tells it from the one before and the one after. A
/// record that another IPAM made remembers no holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnboundPeriod {
    generation: Generation,
    ended: Option<Timestamp>,
}

impl UnboundPeriod {
    fn of(record: &EndpointStatus) -> Option<Self> {
        let (current, last) = (&record.current, record.history.first());
        let ended = last.map(|former| former.ended_at);
        (current.state != HolderState::Bound).then_some(Self { generation: current.generation, ended })
    }
}

/// The objects that a judgement is about.
struct RelatedObjects<'a> {
    endpoint: &'a SpiderEndpoint,
    pod: Option<&'a Pod>,
    set: Option<&'a StatefulSet>,
    node: Option<&'a Node>,
}

/// An endpoint that looks leaked.
pub(super) struct LeakCandidate {
    name: PodName,
    verdict: Verdict,
    times: ObservedDurations,
}

impl Controller {
    /// The first look, at the caches. Answers the endpoint if it looks leaked.
    pub(super) fn leak_candidate(&mut self, name: &PodName, now: Duration) -> Option<LeakCandidate> {
        let Some(endpoint) = self.reflectors.endpoint(name) else {
            self.state.forget_endpoint(name);
            return None;
        };
        let record = endpoint.record();
        let pod = self.reflectors.pod(name);
        let set = self.reflectors.set(&PodName::new(&name.namespace, &record.owner_controller_name));
        let node = pod.as_ref().and_then(|pod| self.reflectors.node(&node_name(pod)));
        let objects =
            RelatedObjects { endpoint: &endpoint, pod: pod.as_deref(), set: set.as_deref(), node: node.as_deref() };
        let times = self.times(name, &record, &objects, now);
        let verdict = self.judge(&objects, &record, &times);
        if let Verdict::Wait(wait) = verdict {
            self.state.delay_queue.set(now + wait, Requeue::Endpoint(name.clone()));
        }
        verdict.acts().then(|| LeakCandidate { name: name.clone(), verdict, times })
    }

    /// For how long things have been as they are, as this controller saw it since it leads. No wall clock counts, nor what
    /// one wrote into a record: one that is wrong would free addresses early.
    fn times(
        &mut self,
        name: &PodName,
        record: &EndpointStatus,
        objects: &RelatedObjects<'_>,
        now: Duration,
    ) -> ObservedDurations {
        fn seen<T: PartialEq>(
            first_seen: &mut FirstSeen<PodName, T>,
            name: &PodName,
            as_: Option<T>,
            now: Duration,
        ) -> Duration {
            if let Some(state) = as_ {
                return first_seen.seen_for(name.clone(), state, now);
            }
            first_seen.forget(name);
            Duration::ZERO
        }
        let uid_if = |is: fn(&Pod) -> bool| objects.pod.filter(|pod| is(pod)).and_then(ResourceExt::uid);
        let going = uid_if(|pod| pod.metadata.deletion_timestamp.is_some());
        let lost = objects.pod.map(node_name).filter(|node| !node.is_empty() && objects.node.is_none());
        let (unbound, state) = (UnboundPeriod::of(record), &mut self.state);
        ObservedDurations {
            unbound_for: seen(&mut state.unbound_periods, name, unbound.clone(), now),
            terminating: seen(&mut state.terminating, name, going, now),
            finished: seen(&mut state.finished, name, uid_if(is_finished), now),
            node_gone: lost.map_or(Duration::ZERO, |node| state.lost_nodes.seen_for(node, (), now)),
            unbound,
            pod: objects.pod.and_then(ResourceExt::uid).unwrap_or_default(),
            node: objects.pod.map(node_name).unwrap_or_default(),
        }
    }

    /// The second look at those that look leaked, and what follows from it.
    pub(super) async fn collect_endpoints(&self, candidates: Vec<LeakCandidate>) {
        stream::iter(candidates)
            .for_each_concurrent(CONCURRENCY, |candidate| async move {
                if let Err(error) = self.collect_endpoint(&candidate).await {
                    self.outcomes.failed(&candidate.name, &error);
                    self.requeue(Requeue::Endpoint(candidate.name));
                }
                self.heartbeat.progress();
            })
            .await;
    }

    async fn collect_endpoint(&self, candidate: &LeakCandidate) -> Result<(), StoreError> {
        let name = &candidate.name;
        // The endpoint first: whatever comes after this read and gives its addresses to a pod writes it, and then the
        // write below fails. Read later, it could be that of a pod which the look for pods was too early to see.
        let Some(mut endpoint) = self.store.endpoint(name).await? else { return Ok(()) };
        let pod = self.store.pod(name).await?;
        let record = endpoint.record().into_owned();
        let owner = PodName::new(&name.namespace, &record.owner_controller_name);
        let sticky = record.is_sticky() && self.settings.stateful_set;
        let set = if sticky { self.store.stateful_set(&owner).await? } else { None };
        let node = match pod.as_ref().map(node_name).filter(|node| !node.is_empty()) {
            Some(node) => self.store.node(&node).await?,
            None => None,
        };
        let objects = RelatedObjects { endpoint: &endpoint, pod: pod.as_ref(), set: set.as_ref(), node: node.as_ref() };
        let verdict = self.judge(&objects, &record, &candidate.times.of(pod.as_ref(), &record));
        // The two looks have to agree: whatever changed in between is judged anew by the event that it causes.
        if verdict != candidate.verdict {
            tracing::debug!(pod = %name, first = ?candidate.verdict, second = ?verdict, "the second look differs");
            return Ok(());
        }
        let reference = endpoint.object_ref(&());
        match verdict {
            Verdict::Keep | Verdict::Wait(_) => {}
            Verdict::Unbind(reason) => {
                if let Some(status) = endpoint.status.as_mut() {
                    status.end_holder(Timestamp::now(), reason.as_str());
                    status.current.state = HolderState::Reserved;
                    status.current.node.clear();
                }
                // The agent that still had it fences what is left there.
                endpoint.labels_mut().remove(NODE_LABEL);
                self.store.write_endpoint(&endpoint).await?;
                self.outcomes.unbound(name, reference, reason);
            }
            Verdict::Release(reason) => self.release(&endpoint, reason).await?,
        }
        Ok(())
    }

    async fn release(&self, endpoint: &SpiderEndpoint, reason: Reason) -> Result<(), StoreError> {
        if !self.store.delete_endpoint(endpoint).await? {
            return Ok(());
        }
        let (name, addresses) = (endpoint.pod(), endpoint.addresses());
        self.outcomes.released(&name, endpoint.object_ref(&()), reason, &addresses);
        let marks = addresses.iter().map(|address| async {
            match self.reflectors.claim(&name_of(*address)) {
                Some(claim) => self.store.mark_claim_released(&claim, &name).await,
                None => self.store.mark_released(*address, &name).await,
            }
        });
        futures::future::try_join_all(marks).await.map(drop)
    }

    fn judge(&self, objects: &RelatedObjects<'_>, record: &EndpointStatus, times: &ObservedDurations) -> Verdict {
        let name = objects.endpoint.name_any();
        let sticky = record.is_sticky() && self.settings.stateful_set;
        let key = SetKey { name: &record.owner_controller_name, uid: record.owner_controller_uid.as_deref() };
        let set_retain = || objects.set.and_then(|set| retain_of(set.annotations()));
        let facts = EndpointFacts {
            name: &name,
            pod_uid: &record.current.uid,
            set: sticky.then_some(key),
            bound: record.current.state == HolderState::Bound,
            retain: retain_of(objects.endpoint.annotations()).or_else(set_retain),
            vacant_for: times.unbound_for,
        };
        let pod = objects.pod.map(|pod| pod_facts(pod, objects.node, times));
        collect::judge(&facts, pod, objects.set.map(set_facts), &self.settings.policy)
    }
}

fn node_name(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn pod_facts<'a>(pod: &'a Pod, node: Option<&Node>, times: &ObservedDurations) -> PodFacts<'a> {
    let meta = &pod.metadata;
    let ending = |seen_for, grace: Option<i64>| {
        let grace = grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
        Termination { seen_for, grace: Duration::from_secs(grace) }
    };
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
    PodFacts {
        uid: meta.uid.as_deref().unwrap_or_default(),
        finished: is_finished(pod).then(|| ending(times.finished, Some(grace))),
        terminating: meta
            .deletion_timestamp
            .as_ref()
            .map(|_| ending(times.terminating, meta.deletion_grace_period_seconds)),
        node: match node {
            None if node_name(pod).is_empty() => NodeFacts::None,
            None => NodeFacts::Gone(times.node_gone),
            Some(node) if is_ready(node) => NodeFacts::Ready,
            Some(_) => NodeFacts::NotReady,
        },
    }
}

/// Whether a node's kubelet says that it is ready, and was heard lately.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn set_facts(set: &StatefulSet) -> SetFacts<'_> {
    let spec = set.spec.as_ref();
    SetFacts {
        uid: set.metadata.uid.as_deref().unwrap_or_default(),
        start: spec.and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0),
        // The API server's default.
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        deleting: set.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_another_pod_say_nothing() {
        let pod = |uid: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"nodeName": "n", "containers": []}}))
                .unwrap()
        };
        let long = Duration::from_secs(99);
        let seen = ObservedDurations {
            pod: "a".into(),
            terminating: long,
            node: "n".into(),
            node_gone: long,
            ..ObservedDurations::default()
        };
        let record = EndpointStatus::default();
        assert_eq!(seen.of(Some(&pod("a")), &record).terminating, long);
        let other = seen.of(Some(&pod("b")), &record);
        assert_eq!((other.terminating, other.node_gone), (Duration::ZERO, long));
        assert_eq!(seen.of(None, &record).node_gone, Duration::ZERO);
    }

    #[test]
    fn a_vacancy_needs_no_history() {
        let mut record = EndpointStatus::default();
        assert_eq!(UnboundPeriod::of(&record), None);
        record.current.state = HolderState::Reserved;
        let first = UnboundPeriod::of(&record);
        assert!(first.is_some());
        record.current.generation = record.current.generation.next();
        assert_ne!(UnboundPeriod::of(&record), first, "somebody held it in between");
    }

    #[test]
    fn facts_are_read_from_objects() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 7, "containers": []}, "status": {"phase": "Failed"}
        }))
        .unwrap();
        let times = ObservedDurations { terminating: Duration::from_secs(3), ..ObservedDurations::default() };
        let facts = pod_facts(&pod, None, &times);
        let ending = |seen_for, grace| {
            Some(Termination { seen_for: Duration::from_secs(seen_for), grace: Duration::from_secs(grace) })
        };
        assert_eq!((facts.finished, facts.terminating), (ending(0, 7), ending(3, 30)));
        assert_eq!(facts.node, NodeFacts::Gone(Duration::ZERO));
        let node: Node =
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})).unwrap();
        assert_eq!(pod_facts(&pod, Some(&node), &times).node, NodeFacts::Ready);
        assert_eq!(pod_facts(&pod, Some(&Node::default()), &times).node, NodeFacts::NotReady);
        assert_eq!(pod_facts(&Pod::default(), None, &times).node, NodeFacts::None);
        let set: StatefulSet = serde_json::from_value(
            json!({"spec": {"ordinals": {"start": 5}, "selector": {}, "template": {}, "serviceName": ""}}),
        )
        .unwrap();
        assert_eq!((set_facts(&set).start, set_facts(&set).replicas), (5, 1));
    }
}
