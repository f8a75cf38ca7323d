//! The writes of users, kubelets, StatefulSets' controllers and agents, done by hand.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_api::{
    claim::{ClaimState, IPClaim},
    endpoint::{EndpointIp, EndpointStatus, Holder, HolderState, STATEFUL_SET, SpiderEndpoint},
    ippool::SpiderIPPool,
    labels::POOL_LABEL,
    store::{AcquireOutcome, Store},
};
use holdfast_controller::{Controller, ControllerMetrics, Heartbeat, Settings};
use holdfast_core::{
    collect::{Cooldowns, Policy},
    election::LeaseTimings,
    id::{Generation, PodName},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Node, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{sync::OwnedMutexGuard, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{namespace::Going, server::Server};

/// Longest time of anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Short times, so that tests end soon.
pub(crate) fn settings() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        collect: true,
        cooldowns: Cooldowns { unlisted: seconds(3), orphaned: seconds(1), released: seconds(1) },
        policy: Policy { delay: seconds(1), ..Policy::default() },
        stateful_set: true,
        full_scan: seconds(600),
        identity: "one".to_owned(),
        namespace: "default".to_owned(),
        lease_timings: LeaseTimings { duration: seconds(3), deadline: seconds(2), retry: seconds(1) },
    }
}

/// A controller in this process. It is killed when dropped.
pub(crate) struct Running {
    work: AbortOnDropHandle<Result<()>>,
    stop: CancellationToken,
    heartbeat: Arc<Heartbeat>,
    _watches: JoinSet<Result<()>>,
}

impl Running {
    /// Waits until it knows who leads.
    pub(crate) async fn knows_leader(&self) -> Result<Duration> {
        wait("the leader to be known", SOON, || async { Ok((self.heartbeat.leader_known().is_ok(), ())) }).await
    }

    /// Ends it as a SIGTERM would.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.work.await.expect("the controller panicked").expect("the controller ended with an error");
    }
}

/// A test's namespace and pool on the common server.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) name: String,
    /// The third and second byte of the pool's addresses: no two tests share any.
    net: u8,
    _exclusive: OwnedMutexGuard<()>,
}

impl World {
    /// A world for the test `name`; the pool `t-name` gives out the 10.`net`.0.0/16.
    pub(crate) async fn new(name: &str, net: u8) -> Result<Self> {
        let server = Server::get()?;
        // A leader works on the whole cluster, so there is one test at a time.
        let exclusive = server.take().await;
        let client = server.client().await?;
        let world =
            Self { store: Store::new(client.clone()), client, name: format!("t-{name}"), net, _exclusive: exclusive };
        world.clear().await?;
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": world.name}}))?;
        Api::all(world.client.clone()).create(&PostParams::default(), &namespace).await?;
        world
            .make_pool(
                &world.name,
                json!({"subnet": format!("10.{net}.0.0/16"), "ips": [format!("10.{net}.0.1-10.{net}.255.250")]}),
            )
            .await?;
        Ok(world)
    }

    /// Removes everything that the test before left.
    async fn clear(&self) -> Result<()> {
        let (now, all) =
            (DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }, ListParams::default());
        let held = |pool: &SpiderIPPool| !pool.finalizers().is_empty();
        for pool in self.pools().list(&all).await?.items.iter().filter(|pool| held(pool)) {
            self.store.set_finalizer(pool, false).await?;
        }
        drop(self.pools().delete_collection(&now, &all).await?);
        drop(Api::<IPClaim>::all(self.client.clone()).delete_collection(&now, &all).await?);
        drop(Api::<Node>::all(self.client.clone()).delete_collection(&now, &all).await?);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for namespace in namespaces.list(&all).await?.items.iter().map(ResourceExt::name_any) {
            let api = || self.client.clone();
            drop(Api::<Pod>::namespaced(api(), &namespace).delete_collection(&now, &all).await?);
            drop(Api::<StatefulSet>::namespaced(api(), &namespace).delete_collection(&now, &all).await?);
            drop(Api::<SpiderEndpoint>::namespaced(api(), &namespace).delete_collection(&now, &all).await?);
        }
        Ok(())
    }

    pub(crate) fn lead(&self, settings: Settings) -> Running {
        // Each test has its own leader: the lease stands in the test's namespace.
        self.lead_through(&self.store, Settings { namespace: self.name.clone(), ..settings })
    }

    /// A controller behind another store, with its lease where the settings say.
    pub(crate) fn lead_through(&self, store: &Store, settings: Settings) -> Running {
        let (mut watches, stop) = (JoinSet::new(), CancellationToken::new());
        let metrics = ControllerMetrics::register(&mut Registry::default());
        let controller = Controller::start(store.clone(), self.store.client(), settings, metrics, &mut watches);
        let heartbeat = controller.heartbeat();
        let work = AbortOnDropHandle::new(tokio::spawn(controller.run(stop.clone())));
        Running { work, stop, heartbeat, _watches: watches }
    }

    pub(crate) fn address(&self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, self.net, high, low])
    }

    pub(crate) fn pod_name(&self, name: &str) -> PodName {
        PodName::new(&self.name, name)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub(crate) fn sets(&self) -> Api<StatefulSet> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub(crate) fn endpoints(&self) -> Api<SpiderEndpoint> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub(crate) fn pools(&self) -> Api<SpiderIPPool> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn make_pool(&self, name: &str, spec: Value) -> Result<SpiderIPPool> {
        let pool = SpiderIPPool::new(name, serde_json::from_value(spec)?);
        Ok(self.pools().create(&PostParams::default(), &pool).await?)
    }

    pub(crate) async fn make_node(&self, name: &str) -> Result<()> {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(self.client.clone()).create(&PostParams::default(), &node).await?;
        self.set_ready(name, "True").await
    }

    /// Sets a node's Ready condition.
    pub(crate) async fn set_ready(&self, name: &str, ready: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready, "reason": "x", "message": "x",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    pub(crate) async fn make_set(&self, name: &str, replicas: i32) -> Result<StatefulSet> {
        let labels = json!({"app": name});
        let set = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))?;
        Ok(self.sets().create(&PostParams::default(), &set).await?)
    }

    pub(crate) async fn scale(&self, set: &str, replicas: i32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.sets().patch(set, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// A pod on `node`, owned by `set`.
    pub(crate) async fn make_pod(&self, name: &str, set: Option<&StatefulSet>, node: &str) -> Result<Pod> {
        let mut pod = pod_on(name, node)?;
        if let Some(set) = set {
            pod.metadata.owner_references = Some(vec![serde_json::from_value(json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set.name_any(), "uid": set.uid(), "controller": true
            }))?]);
        }
        Ok(self.pods().create(&PostParams::default(), &pod).await?)
    }

    /// A pod that may take a second to end.
    pub(crate) async fn make_brief_pod(&self, name: &str, node: &str) -> Result<Pod> {
        let mut pod = pod_on(name, node)?;
        pod.spec.get_or_insert_default().termination_grace_period_seconds = Some(1);
        Ok(self.pods().create(&PostParams::default(), &pod).await?)
    }

    /// As a kubelet confirms it.
    pub(crate) async fn kill_pod(&self, name: &str) -> Result<()> {
        self.pods().delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
        Ok(())
    }

    /// Writes what an ADD does: claim, then endpoint.
    pub(crate) async fn bind(&self, pod: &Pod, address: IpAddr, set: Option<&StatefulSet>) -> Result<()> {
        let name = self.pod_name(&pod.name_any());
        ensure!(
            matches!(self.store.acquire(address, &self.name, &name).await?, AcquireOutcome::Acquired),
            "{address} is another's"
        );
        self.list(pod, address, set).await
    }

    /// The same for an address that another may still have.
    pub(crate) async fn bind_when_free(&self, pod: &Pod, address: IpAddr) -> Result<()> {
        let name = self.pod_name(&pod.name_any());
        let look = || async {
            let claimed = self.store.acquire(address, &self.name, &name).await?;
            Ok((matches!(claimed, AcquireOutcome::Acquired), claimed))
        };
        wait(&format!("{address} to be free for {name}"), SOON * 3, look).await?;
        self.list(pod, address, None).await
    }

    /// The endpoint alone.
    pub(crate) async fn list(&self, pod: &Pod, address: IpAddr, set: Option<&StatefulSet>) -> Result<()> {
        let name = self.pod_name(&pod.name_any());
        let before = self.store.endpoint(&name).await?;
        let mut endpoint = before.unwrap_or_else(|| SpiderEndpoint::for_pod(&name));
        let mut status = endpoint.status.take().unwrap_or_default();
        status.end_holder(Timestamp::now(), "Rebound");
        status.current = self.holder(pod, address, status.current.generation.next());
        owned(&mut status, pod, set);
        endpoint.status = Some(status);
        self.store.write_endpoint(&endpoint).await?;
        Ok(())
    }

    fn holder(&self, pod: &Pod, address: IpAddr, generation: Generation) -> Holder {
        let ip = EndpointIp {
            interface: "eth0".to_owned(),
            ipv4: Some(format!("{address}/16")),
            ipv4_pool: Some(self.name.clone()),
            ..EndpointIp::default()
        };
        Holder {
            uid: pod.uid().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            ips: vec![ip],
            container_id: format!("c{}", generation.0).parse().ok(),
            generation,
            state: HolderState::Bound,
            bound_at: None,
        }
    }

    /// Writes what a DEL of a StatefulSet's pod does.
    pub(crate) async fn unbind(&self, name: &str) -> Result<()> {
        let edit = |endpoint: &mut SpiderEndpoint| {
            let Some(status) = endpoint.status.as_mut() else { return false };
            status.end_holder(Timestamp::now(), "SandboxDeleted");
            status.current.state = HolderState::Reserved;
            true
        };
        self.store.edit_endpoint(&self.pod_name(name), edit).await?.context("there is no endpoint")?;
        Ok(())
    }

    /// An endpoint and a claim of a pod that never was.
    pub(crate) async fn leak(&self, number: u16) -> Result<()> {
        let (name, address) = (self.pod_name(&format!("leak-{number}")), self.address(number));
        self.store.create_claim(address, &self.name, &name).await?;
        let mut endpoint = SpiderEndpoint::for_pod(&name);
        let mut pod = Pod::default();
        pod.metadata.uid = Some(format!("uid-{number}"));
        let mut status =
            EndpointStatus { current: self.holder(&pod, address, Generation(1)), ..EndpointStatus::default() };
        owned(&mut status, &pod, None);
        endpoint.status = Some(status);
        self.store.write_endpoint(&endpoint).await?;
        Ok(())
    }

    /// The claims of this test's pool that are held.
    pub(crate) async fn held(&self) -> Result<Vec<IPClaim>> {
        let mut claims = self.claims().await?;
        claims.retain(|claim| claim.spec.state == ClaimState::Held);
        Ok(claims)
    }

    /// All claims of this test's pool.
    pub(crate) async fn claims(&self) -> Result<Vec<IPClaim>> {
        let list = self.claim_api().list(&ListParams::default().labels(&format!("{POOL_LABEL}={}", self.name))).await?;
        Ok(list.items)
    }

    pub(crate) fn claim_api(&self) -> Api<IPClaim> {
        Api::all(self.client.clone())
    }

    /// Waits for an event with this reason about the pod or endpoint `about`.
    pub(crate) async fn reported(&self, reason: &str, about: &str) -> Result<Duration> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        let look = || async {
            let found = events.list(&ListParams::default()).await?.items.into_iter().any(|event| {
                let regarding = event.regarding.and_then(|regarding| regarding.name);
                event.reason.as_deref() == Some(reason) && regarding.as_deref() == Some(about)
            });
            Ok((found, ()))
        };
        wait(&format!("the event {reason} about {about}"), SOON, look).await
    }

    /// A namespace that is about to be deleted.
    pub(crate) async fn going_namespace(&self, name: &str) -> Result<Going> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(Going { client: self.client.clone(), name: name.to_owned() })
    }

    /// The test's own, about to be deleted.
    pub(crate) fn going(&self) -> Going {
        Going { client: self.client.clone(), name: self.name.clone() }
    }

    /// Waits until a leak that is made now was collected: what the controller was to do about what came before, it has
    /// done.
    pub(crate) async fn looked(&self, number: u16) -> Result<()> {
        self.leak(number).await?;
        let name = format!("leak-{number}");
        let look = || async {
            let left = self.endpoint(&name).await?;
            Ok((left.is_none(), left))
        };
        wait("a leak to be collected", SOON, look).await?;
        Ok(())
    }

    /// Returns the state of an endpoint's holder, or nothing where there is no endpoint.
    pub(crate) async fn endpoint(&self, name: &str) -> Result<Option<HolderState>> {
        let endpoint = self.store.endpoint(&self.pod_name(name)).await?;
        Ok(endpoint.map(|endpoint| endpoint.record().current.state))
    }

    pub(crate) async fn pool(&self) -> Result<SpiderIPPool> {
        Ok(self.pools().get(&self.name).await?)
    }
}

/// A pod as people write it.
pub(crate) fn pod_on(name: &str, node: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
    }))?)
}

fn owned(status: &mut EndpointStatus, pod: &Pod, set: Option<&StatefulSet>) {
    set.map_or("Pod", |_| STATEFUL_SET).clone_into(&mut status.owner_controller_type);
    status.owner_controller_name = set.map_or_else(|| pod.name_any(), ResourceExt::name_any);
    status.owner_controller_uid = set.map_or_else(|| pod.uid(), ResourceExt::uid);
}

/// Looks until it is as wanted; the error says what it was last.
pub(crate) async fn wait<T, F>(what: &str, within: Duration, look: impl FnMut() -> F) -> Result<Duration>
where
    T: std::fmt::Debug,
    F: Future<Output = Result<(bool, T)>>,
{
    wait_slowly(what, Duration::from_millis(50), within, look).await
}

/// The same, with a pause between two looks that costs what is looked at less.
pub(crate) async fn wait_slowly<T, F>(
    what: &str,
    pause: Duration,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> Result<Duration>
where
    T: std::fmt::Debug,
    F: Future<Output = Result<(bool, T)>>,
{
    let started = Instant::now();
    loop {
        let (done, seen) = look().await?;
        if done {
            return Ok(started.elapsed());
        }
        if started.elapsed() > within {
            bail!("{what}: not within {within:?}; last: {seen:?}");
        }
        tokio::time::sleep(pause).await;
    }
}

/// Looks for a while; it must stay so.
pub(crate) async fn stays<F>(what: &str, how_long: Duration, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let started = Instant::now();
    while started.elapsed() < how_long {
        if !look().await? {
            bail!("{what}: not so after {:?}", started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
