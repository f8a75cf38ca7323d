//! What the API server's watches last said. Good enough to candidate; never enough to delete.

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
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::pending_changes::{Change, PendingChanges};

pub(super) struct Reflectors {
    pub(super) pools: Store<SpiderIPPool>,
    pub(super) endpoints: Store<SpiderEndpoint>,
    pub(super) claims: Store<IPClaim>,
    pods: Store<Pod>,
    sets: Store<StatefulSet>,
    pub(super) nodes: Store<Node>,
    /// Only conditions depend on it, so nothing waits for it.
    pub(super) reserved: Store<SpiderReservedIP>,
    changes: Arc<PendingChanges>,
}

impl Reflectors {
    pub(super) fn start(client: &Client, tasks: &mut JoinSet<anyhow::Result<()>>) -> Self {
        let changes = Arc::new(PendingChanges::default());
        let mut watch = Watch { client, changes: &changes, tasks };
        Self {
            pools: watch.follow(|_| (), |pool: &SpiderIPPool| Change::Pool(pool.name_any())),
            endpoints: watch.follow(|_| (), |endpoint: &SpiderEndpoint| Change::Endpoint(endpoint.pod())),
            claims: watch.follow(|_| (), |claim: &IPClaim| Change::Claim(claim.name_any())),
            pods: watch.follow(strip_pod, |pod: &Pod| Change::Pod(name_of(pod))),
            sets: watch.follow(strip_set, |set: &StatefulSet| Change::Set(name_of(set))),
            nodes: watch.follow(strip_node, |node: &Node| Change::Node(node.name_any())),
            reserved: watch.follow(|_| (), |_: &SpiderReservedIP| Change::Reserved),
            changes,
        }
    }

    /// What has changed since it was last asked.
    pub(super) fn changes(&self) -> &Arc<PendingChanges> {
        &self.changes
    }

    /// Waits until every cache has been filled once: what is missing before that is not missing.
    pub(super) async fn synced(&self) -> anyhow::Result<()> {
        self.pools.wait_until_ready().await?;
        self.endpoints.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.sets.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        Ok(())
    }

    pub(super) fn endpoint(&self, name: &PodName) -> Option<Arc<SpiderEndpoint>> {
        self.endpoints.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub(super) fn pod(&self, name: &PodName) -> Option<Arc<Pod>> {
        self.pods.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub(super) fn set(&self, name: &PodName) -> Option<Arc<StatefulSet>> {
        self.sets.get(&ObjectRef::new(&name.name).within(&name.namespace))
    }

    pub(super) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    pub(super) fn claim(&self, name: &str) -> Option<Arc<IPClaim>> {
        self.claims.get(&ObjectRef::new(name))
    }

    pub(super) fn pool(&self, name: &str) -> Option<Arc<SpiderIPPool>> {
        self.pools.get(&ObjectRef::new(name))
    }
}

fn name_of<K: Resource>(object: &K) -> PodName {
    PodName::new(object.namespace().unwrap_or_default(), object.name_any())
}

struct Watch<'a> {
    client: &'a Client,
    changes: &'a Arc<PendingChanges>,
    tasks: &'a mut JoinSet<anyhow::Result<()>>,
}

impl Watch<'_> {
    fn follow<K>(&mut self, strip: fn(&mut K), change: fn(&K) -> Change) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Hash + Eq,
    {
        let (store, writer) = reflector::store();
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
                    // What went while the watch was cut off shows nowhere but in the new list.
                    Ok(watcher::Event::InitDone) => changes.add_everything(),
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Err(error) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "a watch was cut off and starts again");
                    }
                }
            }
            anyhow::bail!("the watch of {} ended", K::plural(&()))
        });
        store
    }
}

/// Of a pod, only who and where it is, whether it has finished and how long that may take is kept: a cluster has many.
fn strip_pod(pod: &mut Pod) {
    let before = pod.spec.take().unwrap_or_default();
    let (node_name, termination_grace_period_seconds) = (before.node_name, before.termination_grace_period_seconds);
    pod.spec = Some(PodSpec { node_name, termination_grace_period_seconds, ..PodSpec::default() });
    pod.metadata.annotations = None;
    pod.metadata.labels = None;
    let phase = pod.status.take().and_then(|status| status.phase);
    pod.status = Some(PodStatus { phase, ..PodStatus::default() });
}

fn strip_set(set: &mut StatefulSet) {
    set.status = None;
    if let Some(annotations) = set.metadata.annotations.as_mut() {
        annotations.retain(|annotation, _| annotation == RETAIN);
    }
    if let Some(spec) = set.spec.as_mut() {
        spec.template = PodTemplateSpec::default();
        spec.volume_claim_templates = None;
    }
}

/// Of a node, only whether it is ready.
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
