//! The caches of the API server's watches. A cache is good enough to suspect a leak, and never enough to delete anything.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures::StreamExt;
use holdfast_api::{
    annotations::RETAIN, claim::IPClaim, endpoint::SpiderEndpoint, ippool::SpiderIPPool, reserved::SpiderReservedIP,
};
use holdfast_core::id::PodName;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus, PodTemplateSpec},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::pending_changes::{Change, PendingChanges};

/// The caches, one for each watched kind.
pub(crate) struct Reflectors {
    pub(crate) pools: Store<SpiderIPPool>,
    pub(crate) endpoints: Store<SpiderEndpoint>,
    pub(crate) claims: Store<IPClaim>,
    pods: Store<Pod>,
    stateful_sets: Store<StatefulSet>,
    pub(crate) nodes: Store<Node>,
    /// Only conditions depend on this cache, so [`Reflectors::synced`] does not wait for it.
    pub(crate) reserved: Store<SpiderReservedIP>,
    changes: Arc<PendingChanges>,
}

/// The writing ends of the caches.
pub(crate) struct Writers {
    pub(crate) pools: Writer<SpiderIPPool>,
    pub(crate) endpoints: Writer<SpiderEndpoint>,
    pub(crate) claims: Writer<IPClaim>,
    pub(crate) pods: Writer<Pod>,
    pub(crate) stateful_sets: Writer<StatefulSet>,
    pub(crate) nodes: Writer<Node>,
    pub(crate) reserved: Writer<SpiderReservedIP>,
}

impl Reflectors {
    /// Returns caches that watches through `client` fill. The watches run in `tasks`.
    pub(crate) fn start(client: &Client, tasks: &mut JoinSet<anyhow::Result<()>>) -> Self {
        let (reflectors, writers) = Self::new();
        let mut watches = Watches { client, changes: &reflectors.changes, tasks };
        watches.start(writers.pools, |_| (), |pool| Change::Pool(pool.name_any()));
        watches.start(writers.endpoints, |_| (), |endpoint| Change::Endpoint(endpoint.pod()));
        watches.start(writers.claims, |_| (), |claim| Change::Claim(claim.name_any()));
        watches.start(writers.pods, strip_pod, |pod| Change::Pod(name_of(pod)));
        watches.start(writers.stateful_sets, strip_stateful_set, |set| Change::StatefulSet(name_of(set)));
        watches.start(writers.nodes, strip_node, |node| Change::Node(node.name_any()));
        watches.start(writers.reserved, |_| (), |_| Change::Reserved);
        reflectors
    }

    /// Returns empty caches, and their writing ends.
    pub(crate) fn new() -> (Self, Writers) {
        let (pools, pool_writer) = reflector::store();
        let (endpoints, endpoint_writer) = reflector::store();
        let (claims, claim_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let (stateful_sets, stateful_set_writer) = reflector::store();
        let (nodes, node_writer) = reflector::store();
        let (reserved, reserved_writer) = reflector::store();
        let changes = Arc::default();
        let writers = Writers {
            pools: pool_writer,
            endpoints: endpoint_writer,
            claims: claim_writer,
            pods: pod_writer,
            stateful_sets: stateful_set_writer,
            nodes: node_writer,
            reserved: reserved_writer,
        };
        (Self { pools, endpoints, claims, pods, stateful_sets, nodes, reserved, changes }, writers)
    }

    /// Returns the changes that wait for a reconciliation.
    pub(crate) fn changes(&self) -> &Arc<PendingChanges> {
        &self.changes
    }

    /// Waits until every cache has been filled once. An object that is not in a cache before that may well exist.
    pub(crate) async fn synced(&self) -> anyhow::Result<()> {
        self.pools.wait_until_ready().await?;
        self.endpoints.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.stateful_sets.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        Ok(())
    }

    pub(crate) fn endpoint(&self, name: &PodName) -> Option<Arc<SpiderEndpoint>> {
        self.endpoints.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub(crate) fn pod(&self, name: &PodName) -> Option<Arc<Pod>> {
        self.pods.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub(crate) fn stateful_set(&self, name: &PodName) -> Option<Arc<StatefulSet>> {
        self.stateful_sets.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub(crate) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    pub(crate) fn claim(&self, name: &str) -> Option<Arc<IPClaim>> {
        self.claims.get(&ObjectRef::new(name))
    }

    pub(crate) fn pool(&self, name: &str) -> Option<Arc<SpiderIPPool>> {
        self.pools.get(&ObjectRef::new(name))
    }
}

fn name_of<K: Resource>(object: &K) -> PodName {
    PodName::new(object.namespace().unwrap_or_default(), object.name_any())
}

struct Watches<'a> {
    client: &'a Client,
    changes: &'a Arc<PendingChanges>,
    tasks: &'a mut JoinSet<anyhow::Result<()>>,
}

impl Watches<'_> {
    /// Starts the watch that fills a cache with stripped objects and adds each change to the pending ones.
    fn start<K>(&mut self, writer: Writer<K>, strip: fn(&mut K), change: fn(&K) -> Change)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Hash + Eq,
    {
        let changes = Arc::clone(self.changes);
        let events = watcher(Api::<K>::all(self.client.clone()), watcher::Config::default())
            .default_backoff()
            .modify(move |object| {
                object.meta_mut().managed_fields = None;
                strip(object);
            })
            .reflect(writer);
        self.tasks.spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => changes.add(change(&object)),
                    // An object that was deleted while the watch was cut off causes no event.
                    Ok(watcher::Event::InitDone) => changes.add_everything(),
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Err(error) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "a watch was cut off and starts again");
                    }
                }
            }
            anyhow::bail!("the watch of {} ended", K::plural(&()))
        });
    }
}

/// Drops all of a pod but its identity, node, phase and grace period: a cluster has many pods.
fn strip_pod(pod: &mut Pod) {
    let before = pod.spec.take().unwrap_or_default();
    let (node_name, termination_grace_period_seconds) = (before.node_name, before.termination_grace_period_seconds);
    pod.spec = Some(PodSpec { node_name, termination_grace_period_seconds, ..PodSpec::default() });
    pod.metadata.annotations = None;
    pod.metadata.labels = None;
    let phase = pod.status.take().and_then(|status| status.phase);
    pod.status = Some(PodStatus { phase, ..PodStatus::default() });
}

fn strip_stateful_set(set: &mut StatefulSet) {
    set.status = None;
    if let Some(annotations) = set.metadata.annotations.as_mut() {
        annotations.retain(|annotation, _| annotation == RETAIN);
    }
    if let Some(spec) = set.spec.as_mut() {
        spec.template = PodTemplateSpec::default();
        spec.volume_claim_templates = None;
    }
}

/// Drops all of a node but its identity and its `Ready` condition.
fn strip_node(node: &mut Node) {
    node.spec = Some(NodeSpec::default());
    node.metadata.annotations = None;
    node.metadata.labels = None;
    let mut conditions = node.status.take().and_then(|status| status.conditions).unwrap_or_default();
    conditions.retain(|condition| condition.type_ == "Ready");
    for condition in &mut conditions {
        condition.message = None;
        condition.last_heartbeat_time = None;
    }
    node.status = Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stripped_pod_keeps_what_the_collection_judges() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "uid": "u", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7, "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"}
        }))
        .unwrap();
        strip_pod(&mut pod);
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "uid": "u"},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7, "containers": []}, "status": {"phase": "Running"}
        });
        assert_eq!(serde_json::to_value(pod).unwrap(), expected);
    }

    #[test]
    fn a_stripped_stateful_set_keeps_its_retention_and_ordinals() {
        let mut set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {RETAIN: "1h", "c": "d"}},
            "spec": {"replicas": 3, "ordinals": {"start": 5}, "serviceName": "", "selector": {},
                "template": {"metadata": {"labels": {"a": "b"}}}}
        }))
        .unwrap();
        strip_stateful_set(&mut set);
        assert_eq!(set.metadata.annotations, Some([(RETAIN.to_owned(), "1h".to_owned())].into()));
        let spec = set.spec.unwrap();
        assert_eq!((spec.replicas, spec.ordinals.unwrap().start), (Some(3), Some(5)));
        assert_eq!(spec.template, PodTemplateSpec::default());
    }

    #[test]
    fn a_stripped_node_does_not_change_with_its_heartbeat() {
        let node = |heartbeat: &str| -> Node {
            let mut node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat, "message": heartbeat},
                {"type": "DiskPressure", "status": "False"}
            ]}}))
            .unwrap();
            strip_node(&mut node);
            node
        };
        let (first, second) = (node("2026-01-01T00:00:00Z"), node("2026-01-01T00:00:10Z"));
        assert_eq!(first, second);
        assert_eq!(first.status.unwrap().conditions.unwrap().len(), 1);
    }
}
