//! Garbage collection of endpoints whose pod, StatefulSet or node is gone.
//!
//! ```text
//! caches ─▶ assess ─▶ LeakCandidate ─▶ live reads ─▶ the same verdict? ─▶ unbind │ release
//! ```

use std::time::Duration;

use holdfast_api::{
    claim::name_of,
    endpoint::{EndpointStatus, HolderState, SpiderEndpoint},
    labels::NODE_LABEL,
    store::StoreError,
};
use holdfast_core::{
    collect::{FirstSeen, Reason, Verdict},
    id::PodName,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use crate::{
    assessment::Assessment,
    context::Context,
    delay_queue::Requeue,
    endpoint_facts::{EndpointObjects, StateDurations, UnboundPeriod, is_finished, is_sticky, judge, node_name},
    index::Index,
    reflectors::Reflectors,
    settings::Settings,
};

/// An endpoint that looks leaked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeakCandidate {
    name: PodName,
    verdict: Verdict,
    durations: StateDurations,
}

/// The times since which endpoints, pods and nodes have been in the states that make an endpoint a leak.
///
/// They are on the controller's own clock and begin with its leadership. A wall clock, or a time that one wrote into a
/// record, may be wrong and would free addresses early.
#[derive(Debug, Default)]
pub(crate) struct EndpointCollector {
    unbound: FirstSeen<PodName, UnboundPeriod>,
    terminating: FirstSeen<PodName, String>,
    finished: FirstSeen<PodName, String>,
    lost_nodes: FirstSeen<String, ()>,
}

impl EndpointCollector {
    /// Judges an endpoint from the caches.
    pub(crate) fn assess(
        &mut self,
        name: &PodName,
        reflectors: &Reflectors,
        settings: &Settings,
        now: Duration,
    ) -> Assessment<LeakCandidate> {
        let Some(endpoint) = reflectors.endpoint(name) else {
            self.unbound.forget(name);
            self.terminating.forget(name);
            self.finished.forget(name);
            return Assessment::Keep;
        };
        let record = endpoint.record();
        let pod = reflectors.pod(name);
        let set = reflectors.stateful_set(&PodName::new(&name.namespace, &record.owner_controller_name));
        let node = pod.as_ref().and_then(|pod| reflectors.node(&node_name(pod)));
        let objects = EndpointObjects {
            endpoint: &endpoint,
            pod: pod.as_deref(),
            stateful_set: set.as_deref(),
            node: node.as_deref(),
        };
        let durations = self.durations(name, &record, &objects, now);
        match judge(&objects, &record, &durations, settings) {
            Verdict::Keep => Assessment::Keep,
            Verdict::Wait(left) => Assessment::RequeueAfter(left),
            verdict => Assessment::Act(LeakCandidate { name: name.clone(), verdict, durations }),
        }
    }

    fn durations(
        &mut self,
        name: &PodName,
        record: &EndpointStatus,
        objects: &EndpointObjects<'_>,
        now: Duration,
    ) -> StateDurations {
        let uid_if = |is: fn(&Pod) -> bool| objects.pod.filter(|pod| is(pod)).and_then(ResourceExt::uid);
        let terminating = uid_if(|pod| pod.metadata.deletion_timestamp.is_some());
        let lost_node = objects.pod.map(node_name).filter(|node| !node.is_empty() && objects.node.is_none());
        let unbound_period = UnboundPeriod::of(record);
        StateDurations {
            unbound: seen_for(&mut self.unbound, name, unbound_period.clone(), now),
            terminating: seen_for(&mut self.terminating, name, terminating, now),
            finished: seen_for(&mut self.finished, name, uid_if(is_finished), now),
            node_gone: lost_node.map_or(Duration::ZERO, |node| self.lost_nodes.seen_for(node, (), now)),
            unbound_period,
            pod_uid: objects.pod.and_then(ResourceExt::uid).unwrap_or_default(),
            node: objects.pod.map(node_name).unwrap_or_default(),
        }
    }

    /// Notes that a node exists. If it goes again, its absence begins anew.
    pub(crate) fn node_exists(&mut self, node: &str) {
        self.lost_nodes.forget(node);
    }

    /// Forgets the nodes that are gone and have no endpoints.
    pub(crate) fn forget_empty_nodes(&mut self, index: &Index) {
        self.lost_nodes.retain(|node| index.endpoints_of_node(node).next().is_some());
    }
}

/// Returns for how long `name` has been in `state`; zero, from which it counts anew, where it is in none.
fn seen_for<T: PartialEq>(
    first_seen: &mut FirstSeen<PodName, T>,
    name: &PodName,
    state: Option<T>,
    now: Duration,
) -> Duration {
    if let Some(state) = state {
        return first_seen.seen_for(name.clone(), state, now);
    }
    first_seen.forget(name);
    Duration::ZERO
}

/// Judges the candidates from live reads, and unbinds or releases those whose verdict stays the same.
pub(crate) async fn collect(context: &Context, candidates: Vec<LeakCandidate>) {
    let each = context.for_each(candidates, |candidate| async move {
        if let Err(error) = collect_one(context, &candidate).await {
            context.outcomes.collection_failed(&candidate.name, &error);
            context.requeue(Requeue::Endpoint(candidate.name));
        }
    });
    each.await;
}

async fn collect_one(context: &Context, candidate: &LeakCandidate) -> Result<(), StoreError> {
    let (store, settings, name) = (&context.store, &context.settings, &candidate.name);
    // The endpoint is read first: an ADD that comes after this read writes it, and then the write below fails. Read later,
    // it could be that of a pod which was created after the read of the pod.
    let Some(endpoint) = store.endpoint(name).await? else { return Ok(()) };
    let pod = store.pod(name).await?;
    let record = endpoint.record().into_owned();
    let owner = PodName::new(&name.namespace, &record.owner_controller_name);
    let set = if is_sticky(&record, settings) { store.stateful_set(&owner).await? } else { None };
    let node = match pod.as_ref().map(node_name).filter(|node| !node.is_empty()) {
        Some(node) => store.node(&node).await?,
        None => None,
    };
    let objects =
        EndpointObjects { endpoint: &endpoint, pod: pod.as_ref(), stateful_set: set.as_ref(), node: node.as_ref() };
    let durations = candidate.durations.valid_for(pod.as_ref(), &record);
    let verdict = judge(&objects, &record, &durations, settings);
    // A change in between causes an event, which judges the endpoint anew.
    if verdict != candidate.verdict {
        tracing::debug!(pod = %name, first = ?candidate.verdict, second = ?verdict, "the live reads differ from the caches");
        return Ok(());
    }
    match verdict {
        Verdict::Keep | Verdict::Wait(_) => Ok(()),
        Verdict::Unbind(reason) => unbind(context, endpoint, reason).await,
        Verdict::Release(reason) => release(context, &endpoint, reason).await,
    }
}

async fn unbind(context: &Context, mut endpoint: SpiderEndpoint, reason: Reason) -> Result<(), StoreError> {
    let regarding = endpoint.object_ref(&());
    if let Some(status) = endpoint.status.as_mut() {
        status.end_holder(Timestamp::now(), reason.as_str());
        status.current.state = HolderState::Reserved;
        status.current.node.clear();
    }
    // The agent of the former node sees the endpoint leave its watch, and fences what is left there.
    endpoint.labels_mut().remove(NODE_LABEL);
    context.store.write_endpoint(&endpoint).await?;
    context.outcomes.unbound(&endpoint.pod(), regarding, reason);
    Ok(())
}

async fn release(context: &Context, endpoint: &SpiderEndpoint, reason: Reason) -> Result<(), StoreError> {
    if !context.store.delete_endpoint(endpoint).await? {
        return Ok(());
    }
    let (name, addresses) = (endpoint.pod(), endpoint.addresses());
    context.outcomes.released(&name, endpoint.object_ref(&()), reason, &addresses);
    let marks = addresses.iter().map(|address| async {
        match context.reflectors.claim(&name_of(*address)) {
            Some(claim) => context.store.mark_claim_released(&claim, &name).await,
            None => context.store.mark_released(*address, &name).await,
        }
    });
    futures::future::try_join_all(marks).await.map(drop)
}

#[cfg(test)]
mod tests {
    use holdfast_api::endpoint::{Holder, STATEFUL_SET};
    use holdfast_core::{
        collect::{Cooldowns, Policy},
        election::LeaseTimings,
    };
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::reflectors::Writers;

    fn settings() -> Settings {
        let second = Duration::from_secs(1);
        Settings {
            collect: true,
            cooldowns: Cooldowns::default(),
            policy: Policy::default(),
            stateful_set: true,
            full_scan: second,
            identity: String::new(),
            namespace: String::new(),
            lease_timings: LeaseTimings { duration: second, deadline: second, retry: second },
        }
    }

    struct Fixture {
        collector: EndpointCollector,
        reflectors: Reflectors,
        writers: Writers,
        name: PodName,
    }

    impl Fixture {
        fn new() -> Self {
            let (reflectors, writers) = Reflectors::new();
            Self { collector: EndpointCollector::default(), reflectors, writers, name: PodName::new("d", "web-0") }
        }

        /// An endpoint of pod `u`, bound; of a StatefulSet if `sticky`.
        fn endpoint(&mut self, sticky: bool) {
            let mut endpoint = SpiderEndpoint::for_pod(&self.name);
            let mut status = EndpointStatus {
                current: Holder { uid: "u".into(), node: "n".into(), state: HolderState::Bound, ..Holder::default() },
                ..EndpointStatus::default()
            };
            if sticky {
                (status.owner_controller_type, status.owner_controller_name) = (STATEFUL_SET.into(), "web".into());
            }
            endpoint.status = Some(status);
            self.writers.endpoints.apply_watcher_event(&Event::Apply(endpoint));
        }

        fn stateful_set(&mut self, replicas: i32) {
            let set = json!({"metadata": {"namespace": "d", "name": "web", "uid": "s"},
                "spec": {"replicas": replicas, "serviceName": "", "selector": {}, "template": {}}});
            self.writers.stateful_sets.apply_watcher_event(&Event::Apply(serde_json::from_value(set).unwrap()));
        }

        fn pod(&mut self) {
            let pod = json!({"metadata": {"namespace": "d", "name": "web-0", "uid": "u"},
                "spec": {"nodeName": "n", "containers": []}});
            self.writers.pods.apply_watcher_event(&Event::Apply(serde_json::from_value(pod).unwrap()));
        }

        fn node(&mut self, exists: bool) {
            let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
            let event = if exists { Event::Apply(node) } else { Event::Delete(node) };
            self.writers.nodes.apply_watcher_event(&event);
        }

        /// Returns the verdict to act on; none where the endpoint is kept, and the time left in seconds where it is
        /// requeued.
        fn assess(&mut self, now: u64) -> Result<Option<Verdict>, u64> {
            match self.collector.assess(&self.name, &self.reflectors, &settings(), Duration::from_secs(now)) {
                Assessment::Keep => Ok(None),
                Assessment::RequeueAfter(left) => Err(left.as_secs()),
                Assessment::Act(candidate) => Ok(Some(candidate.verdict)),
            }
        }
    }

    #[test]
    fn an_endpoint_without_a_pod_is_a_candidate() {
        let mut world = Fixture::new();
        assert_eq!(world.assess(0), Ok(None), "there is no endpoint");
        world.endpoint(false);
        assert_eq!(world.assess(0), Ok(Some(Verdict::Release(Reason::PodGone))));
        world.pod();
        world.node(true);
        assert_eq!(world.assess(0), Ok(None));
    }

    #[test]
    fn a_sticky_endpoint_is_unbound_while_its_ordinal_exists() {
        let mut world = Fixture::new();
        world.endpoint(true);
        assert_eq!(world.assess(0), Ok(Some(Verdict::Release(Reason::StatefulSetGone))));
        world.stateful_set(1);
        assert_eq!(world.assess(0), Ok(Some(Verdict::Unbind(Reason::PodGone))));
        world.stateful_set(0);
        assert_eq!(world.assess(0), Ok(Some(Verdict::Release(Reason::ScaledDown))));
    }

    #[test]
    fn the_absence_of_a_node_counts_anew_after_it_came_back() {
        let mut world = Fixture::new();
        world.endpoint(false);
        world.pod();
        assert_eq!(world.assess(10), Err(5));
        world.node(true);
        world.collector.node_exists("n");
        assert_eq!(world.assess(11), Ok(None));
        world.node(false);
        assert_eq!(world.assess(15), Err(5));
        assert_eq!(world.assess(20), Ok(Some(Verdict::Release(Reason::NodeGone))));
    }

    #[test]
    fn lost_nodes_without_endpoints_are_forgotten() {
        let mut world = Fixture::new();
        world.endpoint(false);
        world.pod();
        assert_eq!(world.assess(10), Err(5));
        let mut index = Index::default();
        index.set_endpoint(&world.name, world.reflectors.endpoint(&world.name).as_deref());
        world.collector.forget_empty_nodes(&index);
        assert_eq!(world.collector.lost_nodes.len(), 1);
        world.collector.forget_empty_nodes(&Index::default());
        assert!(world.collector.lost_nodes.is_empty());
    }
}
