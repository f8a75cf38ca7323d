//! Keeping kernel and records in step: on start, and again now and then. Whatever a crash, a lost event or a hand-made
//! change left different is mended here.
//!
//! ```text
//! machine ↔ maps      what the kernel enforces is what was decided
//! maps ↔ links        a guarded link that is gone is forgotten; a link of ours without a guard gets one
//! links ↔ endpoints   a container that its endpoint names has its addresses; any other is looked at, and fenced or rebound
//! links ↔ sandboxes   a live sandbox is watched; one that died unseen is handled as if its end had been reported
//! links ↔ pods        the mode is the one that the pod's annotation or the configuration asks for now
//! ```

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use holdfast_api::{
    annotations::guard_mode_of,
    endpoint::{EndpointIp, SpiderEndpoint},
};
use holdfast_core::{
    binding::Event,
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, PodName},
};
use holdfast_guard::{Binding, BindingState, LinkRole};
use holdfast_net::HostLink;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Attach, NodeError};
use crate::node::sandbox::{self, SandboxState};

/// Between two full comparisons.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long an ADD may take from its record to its binding before the two are compared.
const SETTLED: Duration = Duration::from_millis(500);
/// After a comparison that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What the API server says of this node, for one comparison.
pub(super) struct Snapshot {
    /// The containers that endpoints name.
    pub(super) holders: HashMap<ContainerId, Held>,
    /// The pods, by UID.
    pub(super) pods: HashMap<String, PodName>,
    modes: HashMap<PodName, GuardMode>,
    /// What the guard has on each link as current.
    current: HashSet<(IfIndex, IpAddr, Generation)>,
}

/// What an endpoint's container holds.
pub(super) struct Held {
    pub(super) pod: PodName,
    pub(super) generation: Generation,
    pub(super) ips: Vec<EndpointIp>,
}

impl Snapshot {
    fn new(endpoints: Vec<SpiderEndpoint>, pods: &[Pod], bindings: Vec<Binding>) -> Self {
        let holders = endpoints.into_iter().filter_map(|endpoint| {
            let (pod, current) = (endpoint.pod(), endpoint.status?.current);
            Some((current.container_id?, Held { pod, generation: current.generation, ips: current.ips }))
        });
        let name = |pod: &Pod| PodName::new(pod.namespace().unwrap_or_default(), pod.name_any());
        let current = bindings.into_iter().filter(|binding| binding.state == BindingState::Current);
        Self {
            holders: holders.collect(),
            pods: pods.iter().filter_map(|pod| Some((pod.uid()?, name(pod)))).collect(),
            modes: pods.iter().filter_map(|pod| Some((name(pod), guard_mode_of(pod)?))).collect(),
            current: current.map(|Binding { entry, .. }| (entry.link, entry.address, entry.generation)).collect(),
        }
    }

    /// What a pod asks for.
    pub(super) fn mode(&self, pod: &PodName) -> Option<GuardMode> {
        self.modes.get(pod).copied()
    }

    /// Whether the guard has all of these addresses as the link's, at this generation.
    pub(super) fn is_current(
        &self,
        link: IfIndex,
        generation: Generation,
        mut addresses: impl Iterator<Item = IpAddr>,
    ) -> bool {
        addresses.all(|address| self.current.contains(&(link, address, generation)))
    }
}

impl Attach {
    /// Compares and mends, for as long as it is polled: every minute, and soon after [`Self::reconcile_soon`].
    pub async fn run(self) -> anyhow::Result<()> {
        loop {
            let pause = match self.reconcile().await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "the node was not compared with the records; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Something may have been missed.
    pub fn reconcile_soon(&self) {
        self.wanted.notify_one();
    }

    /// An endpoint of this node was written. Where it names a container that the guard does not know once an ADD had time
    /// to end, the record and the node disagree.
    pub fn endpoint_written(&self, endpoint: SpiderEndpoint) {
        let holder = endpoint.status.as_ref().and_then(|status| status.current.container_id.clone());
        let Some(container) = holder.filter(|container| !self.is_guarded(container)) else { return };
        let attach = self.clone();
        self.background.spawn(async move {
            tokio::time::sleep(SETTLED).await;
            if !attach.is_guarded(&container) {
                attach.endpoint_left(&endpoint).await;
            }
        });
    }

    /// An endpoint is no longer bound on this node. What is left of it here is looked at.
    pub async fn endpoint_left(&self, endpoint: &SpiderEndpoint) {
        let holder = endpoint.status.as_ref().and_then(|status| status.current.container_id.clone());
        let pod = endpoint.pod();
        let concerns = |of: &PodName, container: &ContainerId| *of == pod || holder.as_ref() == Some(container);
        let inside = self.attachments().values().any(|attachment| concerns(&attachment.pod, &attachment.container));
        // What cannot be told is compared.
        let left = inside
            || self.network.links().await.is_ok_and(|links| {
                links.iter().any(|link| link.pod.as_ref().is_some_and(|of| concerns(of, &link.container)))
            });
        if left {
            self.reconcile_soon();
        }
    }

    async fn reconcile(&self) -> Result<(), NodeError> {
        // Guarded links first: an ADD guards a link only after it has made it, so none is taken for gone.
        let guarded = self.datapath.links()?;
        let links = self.network.links().await?;
        self.detach_missing(&guarded, &links)?;
        self.repair_map()?;
        let (endpoints, pods) = tokio::try_join!(self.ipam.endpoints_on_node(), self.ipam.pods_on_node())?;
        let snapshot = Snapshot::new(endpoints, &pods, self.datapath.bindings()?);
        for link in &links {
            let known = guarded.iter().find(|known| known.link == link.index && known.name == link.name);
            if let Err(error) = self.reconcile_link(link, known, &snapshot).await {
                tracing::warn!(link = %link.name, container = %link.container, %error, "a link was not compared; the others are");
            }
            self.watch_unwatched(&link.container).await;
        }
        for link in guarded.iter().filter(|link| link.inside) {
            if let Err(error) = self.reconcile_pod_interface(link, &snapshot).await {
                tracing::warn!(link = %link.link, name = %link.name, %error, "a link inside a pod was not compared; the others are");
            }
        }
        for (container, held) in &snapshot.holders {
            let has_link = links.iter().any(|link| link.container == *container)
                || guarded.iter().any(|link| link.info.container_tag == container.tag());
            if !has_link {
                self.attach_missing(container, held, &snapshot).await;
            }
        }
        self.check_watched_sandboxes().await?;
        self.network.prune_proxies().await?;
        Ok(())
    }

    /// A link of the node that the kernel no longer has. Those inside pods are their namespaces' business.
    fn detach_missing(&self, guarded: &[holdfast_guard::Link], links: &[HostLink]) -> Result<(), NodeError> {
        let there: HashSet<_> = links.iter().map(|link| (link.index, &link.name)).collect();
        let gone = guarded
            .iter()
            .filter(|link| link.role == LinkRole::Pod && !link.inside && !there.contains(&(link.link, &link.name)));
        for link in gone {
            tracing::info!(link = %link.name, "forgot a guarded link that is gone");
            self.detach(link)?;
        }
        Ok(())
    }

    /// A write to the kernel's map that failed left it behind what was decided.
    fn repair_map(&self) -> Result<(), NodeError> {
        let bindings = self.bindings();
        for Binding { entry, state } in self.datapath.bindings()? {
            let decided = bindings.state(entry.link, entry.address);
            let current = decided == Some(holdfast_core::binding::State::Current);
            match (state, decided) {
                (BindingState::Current, Some(_)) if !current => self.datapath.mark_stale(entry.link, entry.address)?,
                (BindingState::Stale, Some(_)) if current => self.datapath.bind(&entry)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Watched processes that have ended: their events were lost, or came while no agent ran.
    async fn check_watched_sandboxes(&self) -> Result<(), NodeError> {
        for (pid, tag) in self.datapath.sandboxes()? {
            if !sandbox::runs(pid) {
                self.sandbox_exited(tag, pid).await;
            }
        }
        Ok(())
    }

    /// A sandbox whose process is not known yet is looked for; one that ended unseen is reported.
    pub(super) async fn watch_unwatched(&self, container: &ContainerId) {
        let tag = container.tag();
        match self.sandboxes.pid(tag) {
            None => drop(self.find_and_watch(container).await),
            Some(pid) if self.sandboxes.state(container) == SandboxState::Dead => self.sandbox_exited(tag, pid).await,
            Some(_) => {}
        }
    }

    /// The links of a container that nobody can name any more are fenced for good.
    pub(super) fn fence_unowned(&self, link: &holdfast_guard::Link) -> Result<(), NodeError> {
        tracing::info!(link = %link.link, name = %link.name, "fenced a link inside a pod that no record names");
        self.step(Event::Detaching { link: link.link }).map(drop)
    }
}
