//! The facts about an endpoint that the collection judges, read from the endpoint, its pod, StatefulSet and node.

use std::time::Duration;

use holdfast_api::{
    annotations::retain_of,
    endpoint::{EndpointStatus, HolderState, SpiderEndpoint},
};
use holdfast_core::{
    collect::{self, EndpointFacts, NodeFacts, PodFacts, SetFacts, SetKey, Termination, Verdict},
    id::Generation,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Node, Pod},
};
use kube::ResourceExt;

use crate::settings::Settings;

/// The API server's default for a pod's grace period, in seconds.
const DEFAULT_GRACE: i64 = 30;

/// An endpoint and the objects that decide on it.
pub(crate) struct EndpointObjects<'a> {
    pub(crate) endpoint: &'a SpiderEndpoint,
    pub(crate) pod: Option<&'a Pod>,
    pub(crate) stateful_set: Option<&'a StatefulSet>,
    pub(crate) node: Option<&'a Node>,
}

/// A period in which no container holds an endpoint's addresses. Its fields tell it from the period before and the one
/// after; a record that another IPAM made has no history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnboundPeriod {
    generation: Generation,
    ended: Option<Timestamp>,
}

impl UnboundPeriod {
    /// Returns the period that the record is in; none while a container holds the addresses.
    pub(crate) fn of(record: &EndpointStatus) -> Option<Self> {
        let (current, last) = (&record.current, record.history.first());
        let ended = last.map(|former| former.ended_at);
        (current.state != HolderState::Bound).then_some(Self { generation: current.generation, ended })
    }
}

/// The durations for which an endpoint's objects have been in their states, and the objects that they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateDurations {
    pub(crate) unbound_period: Option<UnboundPeriod>,
    pub(crate) unbound: Duration,
    pub(crate) pod_uid: String,
    pub(crate) terminating: Duration,
    pub(crate) finished: Duration,
    pub(crate) node: String,
    pub(crate) node_gone: Duration,
}

impl StateDurations {
    /// Returns the durations that are valid for these objects: those of another pod, node or period are zero.
    pub(crate) fn valid_for(&self, pod: Option<&Pod>, record: &EndpointStatus) -> Self {
        let if_same = |same: bool, time: Duration| if same { time } else { Duration::ZERO };
        let pod_uid = pod.and_then(ResourceExt::uid).unwrap_or_default();
        let node = pod.map(node_name).unwrap_or_default();
        let unbound_period = UnboundPeriod::of(record);
        Self {
            unbound: if_same(unbound_period == self.unbound_period, self.unbound),
            terminating: if_same(pod_uid == self.pod_uid, self.terminating),
            finished: if_same(pod_uid == self.pod_uid, self.finished),
            node_gone: if_same(node == self.node, self.node_gone),
            unbound_period,
            pod_uid,
            node,
        }
    }
}

/// Judges an endpoint by its objects and for how long they have been in their states.
pub(crate) fn judge(
    objects: &EndpointObjects<'_>,
    record: &EndpointStatus,
    durations: &StateDurations,
    settings: &Settings,
) -> Verdict {
    let name = objects.endpoint.name_any();
    let key = SetKey { name: &record.owner_controller_name, uid: record.owner_controller_uid.as_deref() };
    let set_retain = || objects.stateful_set.and_then(|set| retain_of(set.annotations()));
    let facts = EndpointFacts {
        name: &name,
        pod_uid: &record.current.uid,
        set: is_sticky(record, settings).then_some(key),
        bound: record.current.state == HolderState::Bound,
        retain: retain_of(objects.endpoint.annotations()).or_else(set_retain),
        vacant_for: durations.unbound,
    };
    let pod = objects.pod.map(|pod| pod_facts(pod, objects.node, durations));
    collect::judge(&facts, pod, objects.stateful_set.map(set_facts), &settings.policy)
}

/// Returns whether the endpoint's addresses outlive its pod.
pub(crate) fn is_sticky(record: &EndpointStatus, settings: &Settings) -> bool {
    record.is_sticky() && settings.stateful_set
}

/// Returns the name of the pod's node; empty before it is scheduled.
pub(crate) fn node_name(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Returns whether the pod has succeeded or failed.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Returns whether the node is ready: its kubelet says so, and was heard lately.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn pod_facts<'a>(pod: &'a Pod, node: Option<&Node>, durations: &StateDurations) -> PodFacts<'a> {
    let meta = &pod.metadata;
    let termination = |seen_for, grace: Option<i64>| {
        let grace = grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
        Termination { seen_for, grace: Duration::from_secs(grace) }
    };
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
    let deleted = meta.deletion_timestamp.as_ref();
    PodFacts {
        uid: meta.uid.as_deref().unwrap_or_default(),
        finished: is_finished(pod).then(|| termination(durations.finished, Some(grace))),
        terminating: deleted.map(|_| termination(durations.terminating, meta.deletion_grace_period_seconds)),
        node: match node {
            None if node_name(pod).is_empty() => NodeFacts::None,
            None => NodeFacts::Gone(durations.node_gone),
            Some(node) if is_ready(node) => NodeFacts::Ready,
            Some(_) => NodeFacts::NotReady,
        },
    }
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
    fn durations_of_another_pod_are_not_valid() {
        let pod = |uid: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"nodeName": "n", "containers": []}}))
                .unwrap()
        };
        let long = Duration::from_secs(99);
        let seen = StateDurations {
            pod_uid: "a".into(),
            terminating: long,
            node: "n".into(),
            node_gone: long,
            ..StateDurations::default()
        };
        let record = EndpointStatus::default();
        assert_eq!(seen.valid_for(Some(&pod("a")), &record).terminating, long);
        let other = seen.valid_for(Some(&pod("b")), &record);
        assert_eq!((other.terminating, other.node_gone), (Duration::ZERO, long));
        assert_eq!(seen.valid_for(None, &record).node_gone, Duration::ZERO);
    }

    #[test]
    fn an_unbound_period_needs_no_history() {
        let mut record = EndpointStatus::default();
        assert_eq!(UnboundPeriod::of(&record), None);
        record.current.state = HolderState::Reserved;
        let first = UnboundPeriod::of(&record);
        assert!(first.is_some());
        record.current.generation = record.current.generation.next();
        assert_ne!(UnboundPeriod::of(&record), first, "a container held it in between");
    }

    #[test]
    fn facts_are_read_from_objects() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 7, "containers": []}, "status": {"phase": "Failed"}
        }))
        .unwrap();
        let durations = StateDurations { terminating: Duration::from_secs(3), ..StateDurations::default() };
        let facts = pod_facts(&pod, None, &durations);
        let termination = |seen_for, grace| {
            Some(Termination { seen_for: Duration::from_secs(seen_for), grace: Duration::from_secs(grace) })
        };
        assert_eq!((facts.finished, facts.terminating), (termination(0, 7), termination(3, 30)));
        assert_eq!(facts.node, NodeFacts::Gone(Duration::ZERO));
        let node: Node =
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})).unwrap();
        assert_eq!(pod_facts(&pod, Some(&node), &durations).node, NodeFacts::Ready);
        assert_eq!(pod_facts(&pod, Some(&Node::default()), &durations).node, NodeFacts::NotReady);
        assert_eq!(pod_facts(&Pod::default(), None, &durations).node, NodeFacts::None);
        let set: StatefulSet = serde_json::from_value(
            json!({"spec": {"ordinals": {"start": 5}, "selector": {}, "template": {}, "serviceName": ""}}),
        )
        .unwrap();
        assert_eq!((set_facts(&set).start, set_facts(&set).replicas), (5, 1));
    }
}
