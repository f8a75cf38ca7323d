//! Who holds which address: ADD and DEL as the API server sees them, without any interface.
//!
//! ```text
//! bind    live pod, namespace, endpoint ─▶ choice of pools ─▶ keep or take addresses ─▶ write endpoint ─▶ confirm claims
//! unbind  endpoint of this container?   ─▶ sticky: reserve │ other: delete ─▶ mark claims
//! ```

#![forbid(unsafe_code)]

mod allocator;
mod bind_spec;
mod error;
mod metrics;
mod pool_selection;
mod pools;
mod records;
mod static_ips;

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Instant};

use holdfast_api::{
    endpoint::{EndpointIp, HolderState, SpiderEndpoint},
    store::{Store, StoreError, VerifyOutcome},
};
use holdfast_cni::NetConf;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfName, PodName},
    pool::Family,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use allocator::{Allocator, Recent};
use bind_spec::BindSpec;
pub use error::{ErrorClass, IpamError};
pub use metrics::IpamMetrics;
pub use pools::{CachedPool, PoolCache};
pub use records::{HolderLocation, PodRecord, SANDBOX_DIED};

/// How often an ADD starts over when others change what it read.
const ATTEMPTS: usize = 5;

/// What an ADD asks for.
#[derive(Debug, Clone)]
pub struct BindRequest<'a> {
    /// The pod.
    pub pod: PodName,
    /// Its UID, where the runtime tells it.
    pub uid: Option<String>,
    /// The sandbox.
    pub container: ContainerId,
    /// The interface in it.
    pub interface: IfName,
    /// The CNI configuration.
    pub conf: &'a NetConf,
}

/// What an ADD got.
#[derive(Debug, Clone, PartialEq)]
pub struct IpAllocation {
    /// The addresses and what goes with them, as the endpoint has them.
    pub ip: EndpointIp,
    /// The holder's generation.
    pub generation: Generation,
    /// What the pod wants done with packets whose address is not its own, where it says so.
    pub mode: Option<GuardMode>,
    /// Addresses that the endpoint listed before and does not list now. To be released once the new ones work.
    pub displaced: Vec<IpAddr>,
}

/// What a DEL takes out of the records.
#[derive(Debug, Clone, Copy)]
pub struct UnbindRequest<'a> {
    /// The pod.
    pub pod: &'a PodName,
    /// The sandbox.
    pub container: &'a ContainerId,
    /// The interface in it.
    pub interface: &'a IfName,
    /// Whether the sandbox has other interfaces that stay: then it goes on holding what its pod keeps.
    pub has_other_interfaces: bool,
    /// Why, for the history.
    pub reason: &'a str,
}

/// What a DEL did to the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnbindOutcome {
    /// The container holds nothing: it is unknown, or another holds its addresses by now.
    Nothing,
    /// The addresses wait for the pod.
    Reserved,
    /// The pod's addresses are no longer listed; their claims are still to be marked.
    Released(Vec<IpAddr>),
}

/// Binds containers to addresses through the API server.
#[derive(Clone)]
pub struct Ipam {
    store: Store,
    pools: Arc<PoolCache>,
    settings: Arc<Settings>,
    metrics: IpamMetrics,
    recent: Arc<Recent>,
}

/// What an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// The families that pods get.
    pub families: Vec<Family>,
    /// Whether the pods of StatefulSets keep their addresses.
    pub sticky_stateful_sets: bool,
}

/// What the tries of one ADD have come to so far.
#[derive(Debug, Default)]
struct BindProgress {
    /// Addresses that the endpoint listed at any time.
    listed: HashSet<IpAddr>,
    /// Those that turned out to be another endpoint's.
    lost: HashSet<IpAddr>,
    /// Whether the endpoint may have been written.
    wrote: bool,
}

impl Ipam {
    /// Allocation from `pools` through `store`.
    pub fn new(store: Store, pools: Arc<PoolCache>, settings: Settings, metrics: IpamMetrics) -> Self {
        Self { store, pools, settings: Arc::new(settings), metrics, recent: Arc::default() }
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.settings.node
    }

    /// Gives the container its addresses: those that its pod keeps, or free ones.
    pub async fn bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError> {
        let started = Instant::now();
        let outcome = self.try_bind(request).await;
        self.metrics.allocated(&outcome, started.elapsed());
        outcome
    }

    async fn try_bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError> {
        let (pod, namespace, before) = tokio::try_join!(
            self.store.pod(&request.pod),
            self.store.namespace(&request.pod.namespace),
            self.store.endpoint(&request.pod),
        )?;
        let pod = self.admit(request, pod)?;
        let spec = self.spec(request, &pod, namespace).await?;
        let mut progress = BindProgress::default();
        let outcome = self.until_bound(&spec, before, &mut progress).await;
        if outcome.is_err() && progress.wrote {
            self.take_back(request, &progress.lost).await;
        }
        outcome
    }

    async fn until_bound(
        &self,
        spec: &BindSpec<'_>,
        mut before: Option<SpiderEndpoint>,
        progress: &mut BindProgress,
    ) -> Result<IpAllocation, IpamError> {
        for _ in 0..ATTEMPTS {
            progress.listed.extend(before.iter().flat_map(SpiderEndpoint::addresses));
            match self.attempt(spec, before.as_ref(), progress).await {
                Ok(Some(bound)) => return Ok(bound),
                Ok(None) => {}
                Err(IpamError::Store(error)) if error.is_conflict() => self.metrics.allocation_conflict(),
                Err(error) => return Err(error),
            }
            before = self.store.endpoint(&spec.request.pod).await?;
        }
        Err(IpamError::Contended(spec.request.pod.clone()))
    }

    /// An ADD that failed after it had written: the record must not name a container that never got its addresses, nor
    /// list addresses that are another's.
    async fn take_back(&self, request: &BindRequest<'_>, lost: &HashSet<IpAddr>) {
        let pod = &request.pod;
        let dropped = self.store.edit_endpoint(pod, |endpoint| endpoint.drop_addresses(lost)).await;
        let (container, interface) = (&request.container, &request.interface);
        let leaving = UnbindRequest { pod, container, interface, has_other_interfaces: false, reason: "AddFailed" };
        let outcome = self.try_unbind(&leaving).await;
        match (dropped, outcome) {
            (Ok(_), Ok(UnbindOutcome::Released(addresses))) => self.release_addresses(pod, &addresses).await,
            (Ok(_), Ok(_)) => {}
            (Err(error), _) => tracing::warn!(%pod, %error, "the record of a failed ADD still lists lost addresses"),
            (_, Err(error)) => tracing::warn!(%pod, %error, "the record of a failed ADD was not taken back"),
        }
    }

    /// Only the API server's current pod of that name, on this node, gets an address.
    fn admit(&self, request: &BindRequest<'_>, pod: Option<Pod>) -> Result<Pod, IpamError> {
        let pod = pod.ok_or_else(|| IpamError::NoPod(request.pod.clone()))?;
        let current = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(asked) = request.uid.clone().filter(|asked| *asked != current) {
            return Err(IpamError::StalePod { pod: request.pod.clone(), asked, current });
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if node != self.settings.node {
            let here = self.settings.node.clone();
            return Err(IpamError::OtherNode { pod: request.pod.clone(), node, here });
        }
        Ok(pod)
    }

    async fn spec<'a>(
        &'a self,
        request: &'a BindRequest<'a>,
        pod: &'a Pod,
        namespace: Option<Namespace>,
    ) -> Result<BindSpec<'a>, IpamError> {
        let spec = BindSpec::new(&self.settings, request, pod, namespace)?;
        // A pool made a moment ago may not have reached the watch yet.
        if spec.names_unknown_pools(&self.pools) {
            let (pools, reserved) = tokio::try_join!(self.store.pools(), self.store.reserved())?;
            self.pools.replace(pools, &reserved);
        }
        if !self.pools.any_by_node_labels() {
            return Ok(spec);
        }
        let node = self.store.node(&self.settings.node).await?;
        Ok(spec.with_node_labels(node.and_then(|node| node.metadata.labels).unwrap_or_default()))
    }

    /// One pass of the protocol. None: what was read is out of date, start over.
    async fn attempt(
        &self,
        spec: &BindSpec<'_>,
        before: Option<&SpiderEndpoint>,
        progress: &mut BindProgress,
    ) -> Result<Option<IpAllocation>, IpamError> {
        let kept = spec.keep(before, &progress.lost);
        let missing = spec.families().filter(|family| !kept.iter().any(|kept| kept.is(*family))).collect();
        let taken = Allocator::new(self, spec, before).each(missing).await?;
        if kept.is_empty() && taken.is_empty() {
            let request = spec.request;
            return Err(IpamError::NoDefault { pod: request.pod.clone(), interface: request.interface.clone() });
        }
        let next = spec.endpoint(before, &kept, &taken, &self.pools, Timestamp::now());
        let unchanged = before == Some(&next);
        // From here on it may have been written, even where no answer comes.
        progress.wrote |= !unchanged;
        let write = async { if unchanged { Ok(next.clone()) } else { self.store.write_endpoint(&next).await } };
        let pod = &spec.request.pod;
        let confirm_kept =
            futures::future::try_join_all(kept.iter().map(|kept| self.store.verify(kept.address(), pod)));
        let (written, confirmed) = tokio::join!(write, confirm_kept);
        let (written, mut confirmed) = (written?, confirmed?);
        // What was taken is confirmed only now: the endpoint lists it from here on, so nobody takes it away any more.
        let taken_too = taken.iter().map(|taken| self.store.verify(taken.address(), pod));
        confirmed.extend(futures::future::try_join_all(taken_too).await?);
        for (assigned, confirmed) in kept.iter().chain(&taken).zip(confirmed) {
            let ours = match confirmed {
                VerifyOutcome::Held => true,
                VerifyOutcome::Gone => self.create_again(assigned, pod).await?,
                VerifyOutcome::Lost(_) => false,
            };
            if !ours {
                tracing::warn!(pod = %pod, address = %assigned.address(), "the address belongs to another endpoint by now; choosing a new one");
                progress.lost.insert(assigned.address());
            }
        }
        let all_ours = next.addresses().iter().all(|address| !progress.lost.contains(address));
        Ok(all_ours.then(|| spec.bound(&progress.listed, &written)))
    }

    /// The claim of a listed address went. Creating it again decides whether the address is still ours.
    async fn create_again(&self, assigned: &bind_spec::Assigned, pod: &PodName) -> Result<bool, IpamError> {
        match self.store.create_claim(assigned.address(), &assigned.pool, pod).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an interface of the container out of the records, if it is the container that they name. A late DEL changes
    /// nothing.
    pub async fn unbind(&self, leaving: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError> {
        let started = Instant::now();
        let outcome = self.try_unbind(leaving).await;
        self.metrics.released(&outcome, started.elapsed());
        outcome
    }

    async fn try_unbind(&self, leaving: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError> {
        let UnbindRequest { pod, container, interface, reason, has_other_interfaces } = *leaving;
        for _ in 0..ATTEMPTS {
            let Some(mut endpoint) = self.store.endpoint(pod).await? else { return Ok(UnbindOutcome::Nothing) };
            let Some(status) = endpoint.status.as_mut() else { return Ok(UnbindOutcome::Nothing) };
            if status.current.container_id.as_ref() != Some(container) {
                return Ok(UnbindOutcome::Nothing);
            }
            let sticky = status.is_sticky() && self.settings.sticky_stateful_sets;
            if sticky && has_other_interfaces {
                return Ok(UnbindOutcome::Nothing);
            }
            let outcome = if sticky {
                status.end_holder(Timestamp::now(), reason);
                status.current.state = HolderState::Reserved;
                self.store.write_endpoint(&endpoint).await.map(|_| Some(UnbindOutcome::Reserved))
            } else {
                self.drop_interface(endpoint, interface).await
            };
            match outcome {
                Ok(Some(unbound)) => return Ok(unbound),
                Ok(None) => {}
                Err(error) if error.is_conflict() => self.metrics.release_conflict(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(pod.clone()))
    }

    /// The interface's addresses go; with the last interface, the endpoint does. None: it changed since it was read.
    async fn drop_interface(
        &self,
        mut endpoint: SpiderEndpoint,
        interface: &IfName,
    ) -> Result<Option<UnbindOutcome>, StoreError> {
        let all = endpoint.addresses();
        let ips = endpoint.status.as_mut().map(|status| &mut status.current.ips);
        let more = ips.is_some_and(|ips| {
            ips.retain(|ip| ip.interface != interface.as_str());
            !ips.is_empty()
        });
        if !more {
            return Ok(self.store.delete_endpoint(&endpoint).await?.then_some(UnbindOutcome::Released(all)));
        }
        let dropped = all.into_iter().filter(|address| !endpoint.lists(*address)).collect();
        self.store.write_endpoint(&endpoint).await?;
        Ok(Some(UnbindOutcome::Released(dropped)))
    }

    /// Marks the claims of addresses that the pod's endpoint lists no more. Whatever fails here, the collector ends.
    pub async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]) {
        self.recent.forget(addresses);
        if let Err(error) = self.store.release_addresses(pod, addresses).await {
            tracing::warn!(%pod, ?addresses, %error, "the claims were not marked as released; the controller will");
        }
    }
}
