//! Driving the binding state machine: the kernel's map follows its actions, and what the guard sees goes into it.
//!
//! ```text
//! ADD, DEL, adoption ──┐                      ┌─▶ datapath: current, stale
//! guard's events ──────┼─▶ Bindings::step ────┼─▶ look: live reads, in the pod's lock ─▶ Found ─▶ (again)
//! sandbox deaths ──────┘                      ├─▶ records: rebind, collect
//!                                             └─▶ event_recorder: Kubernetes events
//! ```

use std::{collections::HashMap, net::IpAddr, sync::MutexGuard};

use holdfast_abi::Counter;
use holdfast_api::event_recorder::EventType;
use holdfast_core::{
    binding::{Action, Bindings, Event, LinkOwner, Observation, RecordedHolder, State, Violation},
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, IfName, PodName},
};
use holdfast_guard::{BindingEntry, BindingState, DatapathError, EventKind, GuardEvent, Link, LinkInfo};
use holdfast_ipam::{HolderLocation, PodRecord, SANDBOX_DIED};
use holdfast_net::HostLink;

use super::{Attach, NodeError, cni_request::CniRequest};
use crate::node::sandbox::{self, SandboxState};

/// A link's container and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) pod: PodName,
    pub(super) container: ContainerId,
    pub(super) interface: IfName,
}

impl Attachment {
    /// Who calls.
    pub(super) fn of_request(request: &CniRequest) -> Self {
        Self { pod: request.pod.clone(), container: request.container.clone(), interface: request.interface.clone() }
    }

    /// Whose a link of ours is, where its alias says so.
    pub(super) fn of(link: HostLink) -> Option<Self> {
        Some(Self { pod: link.pod?, container: link.container, interface: link.ifname })
    }
}

impl Attach {
    pub(super) fn bindings(&self) -> MutexGuard<'_, Bindings> {
        self.bindings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a link of the container is guarded.
    pub(super) fn is_guarded(&self, container: &ContainerId) -> bool {
        !self.links_of(container.tag()).is_empty()
    }

    /// The container's links that the guard sits on: those of this interface, and the others.
    pub(super) fn guarded_links(
        &self,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<(Vec<Link>, Vec<Link>), NodeError> {
        let host = container.host_link(interface);
        let links = self.datapath.links()?.into_iter().filter(|link| link.info.container_tag == container.tag());
        // A link inside the pod has the name that it has there.
        Ok(links.partition(|link| link.name == if link.inside { interface.clone() } else { host.clone() }))
    }

    /// Whether the guard sits on this interface of the container.
    pub(super) fn is_attached(&self, container: &ContainerId, interface: &IfName) -> Result<bool, NodeError> {
        Ok(!self.guarded_links(container, interface)?.0.is_empty())
    }

    /// Whether it sits on another one, which is not being taken down as well.
    pub(super) fn has_others(&self, container: &ContainerId, interface: &IfName) -> Result<bool, NodeError> {
        let others = self.guarded_links(container, interface)?.1;
        let bindings = self.bindings();
        Ok(others.iter().any(|link| !bindings.is_detaching(link.link)))
    }

    /// The guarded links of a container.
    pub(super) fn links_of(&self, tag: u64) -> Vec<IfIndex> {
        self.bindings().links_of(tag)
    }

    /// Takes an event, carries out at once what concerns the kernel's map, and gives back the rest. The map is written
    /// under the machine's lock: it never shows another order of events.
    pub(super) fn step(&self, event: Event) -> Result<Vec<Action>, NodeError> {
        let now = self.started.elapsed();
        let mut bindings = self.bindings();
        let mut rest = Vec::new();
        for action in bindings.step(now, event) {
            match action {
                Action::MakeCurrent { link, owner, address, generation } => {
                    let LinkOwner { tag: container_tag, mac } = owner;
                    self.datapath.bind(&BindingEntry { link, address, generation, container_tag, mac })?;
                }
                Action::MakeStale { link, address } => self.datapath.mark_stale(link, address)?,
                other => rest.push(other),
            }
        }
        Ok(rest)
    }

    /// What the kernel's map holds from an earlier agent.
    pub(super) fn adopt_bindings(&self) -> Result<(), DatapathError> {
        let mut bindings = self.bindings();
        for binding in self.datapath.bindings()? {
            let BindingEntry { link, address, generation, container_tag: tag, mac } = binding.entry;
            let state = if binding.state == BindingState::Current { State::Current } else { State::Stale };
            bindings.restore(link, LinkOwner { tag, mac }, address, generation, state);
        }
        Ok(())
    }

    /// The kernel knows the holder before the pod can send its first packet.
    pub(super) fn bind_link(
        &self,
        link: IfIndex,
        owner: LinkOwner,
        generation: Generation,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), NodeError> {
        for address in addresses {
            self.step(Event::Bind { link, owner, address, generation })?;
        }
        Ok(())
    }

    /// Puts the guard on the host side of a pod's link.
    pub(super) fn attach_host_link(
        &self,
        (link, name, mode): (IfIndex, &IfName, GuardMode),
        owner: LinkOwner,
        generation: Generation,
    ) -> Result<(), NodeError> {
        Ok(self.datapath.attach_pod_link(link, name, link_info(owner, generation, mode))?)
    }

    /// Silences an interface of a container that is being taken down; gives its links, on which the guard stays until they
    /// are gone. With a container's last interface its sandbox is forgotten.
    pub(super) fn fence(&self, container: &ContainerId, interface: &IfName) -> Result<Vec<Link>, NodeError> {
        let links = self.guarded_links(container, interface)?.0;
        for link in &links {
            self.step(Event::Detaching { link: link.link })?;
        }
        if !self.has_others(container, interface)?
            && let Some(pid) = self.sandboxes.forget(container.tag())
        {
            self.datapath.forget_sandbox(pid)?;
        }
        Ok(links)
    }

    /// Takes everything of a link that is gone out of the machine and the kernel.
    pub(super) fn detach(&self, link: &Link) -> Result<(), NodeError> {
        self.datapath.detach_pod_link(link.link, &link.name)?;
        self.step(Event::Detached { link: link.link })?;
        self.attachments().remove(&link.link);
        Ok(())
    }

    pub(super) fn attachments(&self) -> MutexGuard<'_, HashMap<IfIndex, Attachment>> {
        self.attachments.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the guard saw. What concerns the kernel's map is done at once, in the order of the events; the future is the
    /// rest, which asks the API server.
    pub fn handle(&self, event: GuardEvent) -> impl Future<Output = ()> + Send + 'static {
        let violation = |violation| Some(Event::Violation { link: event.link, address: event.address, violation });
        let step = match event.kind {
            EventKind::Stale | EventKind::LeaseExpired => violation(Violation::Stale),
            EventKind::Foreign => violation(Violation::Foreign),
            EventKind::Mac => violation(Violation::Mac),
            EventKind::Conflict => Some(Event::Conflict { address: event.address }),
            // Whether the sandbox has another process is found out before anything is fenced.
            EventKind::SandboxExit => None,
        };
        let (attach, first) = (self.clone(), step.map(|step| self.take(step)));
        async move {
            let Some(actions) = first else { return attach.process_ended(&event).await };
            attach.carry_out(actions, Some(&event)).await;
            if event.kind == EventKind::Stale {
                attach.metrics.fenced(event.age());
            }
        }
    }

    /// How many events the kernel had no room for.
    pub fn events_lost(&self) -> Result<u64, DatapathError> {
        Ok(self.datapath.counters()?.get(Counter::EventsLost))
    }

    /// As [`Self::step`], for whoever cannot do anything about an error.
    pub(super) fn take(&self, event: Event) -> Vec<Action> {
        self.step(event).unwrap_or_else(|error| {
            tracing::error!(%error, "the guard's map was not changed; the next comparison mends it");
            Vec::new()
        })
    }

    /// Carries out actions, and all that comes of them.
    pub(super) async fn carry_out(&self, mut actions: Vec<Action>, seen: Option<&GuardEvent>) {
        while let Some(action) = actions.pop() {
            match self.perform(action, seen).await {
                Ok(next) => actions.extend(next),
                Err(error) => tracing::warn!(?action, %error, "not carried out; the next comparison looks again"),
            }
        }
    }

    async fn perform(&self, action: Action, seen: Option<&GuardEvent>) -> Result<Vec<Action>, NodeError> {
        match action {
            Action::MakeCurrent { .. } | Action::MakeStale { .. } => {}
            Action::Verify { link } => return self.look(link).await,
            Action::Rebind { link } => self.rebind(link).await?,
            Action::Collect { link } => self.collect(link).await?,
            Action::Withdraw { link } => {
                if let Some(host) = self.network.link_by_index(link).await? {
                    let withdrawn = self.network.withdraw(&host.name).await?;
                    if !withdrawn.is_empty() {
                        tracing::info!(link = %host.name, container = %host.container, addresses = ?withdrawn, "fenced");
                    }
                }
            }
            Action::Report { link, address, report } => {
                if let Some(seen) = seen {
                    self.record_violation(link, address, report, seen).await;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Makes a link known to the machine before it has any address.
    pub(super) fn register(&self, link: IfIndex, owner: LinkOwner) {
        self.bindings().register(link, owner);
    }

    /// Looks at a link's records, and does what they ask for.
    pub(super) async fn verify_link(&self, link: IfIndex) {
        self.carry_out(vec![Action::Verify { link }], None).await;
    }

    /// Whose link it is.
    pub(super) async fn attachment(&self, link: IfIndex) -> Result<Option<Attachment>, NodeError> {
        let known = self.attachments().get(&link).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let host = self.network.link_by_index(link).await?;
        let attachment = host.and_then(Attachment::of);
        if let Some(attachment) = &attachment {
            self.attachments().insert(link, attachment.clone());
        }
        Ok(attachment)
    }

    /// Takes what live reads say of a link, in its pod's lock: no ADD comes between the reading and the step. Where nobody
    /// knows whose the link is, nothing is concluded.
    async fn look(&self, link: IfIndex) -> Result<Vec<Action>, NodeError> {
        let Some(attachment) = self.attachment(link).await? else { return Ok(Vec::new()) };
        let _lock = self.locks.lock(&attachment.pod).await;
        let (observation, _) = self.observe(&attachment).await?;
        let ours = matches!(observation.recorded, RecordedHolder::Container { tag, .. } if tag == attachment.container.tag() && observation.alive);
        let listed = observation.listed.clone();
        let actions = self.step(Event::Observed { link, observation })?;
        if ours {
            self.readvertise(link, listed).await?;
        }
        Ok(actions)
    }

    /// Addresses that were led away from a link of the node while it was not known for their holder.
    async fn readvertise(&self, link: IfIndex, listed: Vec<IpAddr>) -> Result<(), NodeError> {
        let Some(host) = self.network.link_by_index(link).await? else { return Ok(()) };
        let ours = |address: &IpAddr| self.bindings().holder(*address) == Some(link);
        let missing = |address: &IpAddr| !host.addresses.contains(address) && ours(address);
        let missing: Vec<_> = listed.into_iter().filter(missing).collect();
        if !missing.is_empty() {
            tracing::info!(link = %host.name, container = %host.container, addresses = ?missing, "leads to this link again");
            self.network.readvertise(&host, &missing).await?;
        }
        Ok(())
    }

    /// In the pod's lock no ADD is half done: a holder that the record names has its link.
    async fn observe(&self, attachment: &Attachment) -> Result<(Observation, Option<String>), NodeError> {
        let record = self.ipam.pod_record(&attachment.pod, &attachment.interface).await?;
        let PodRecord { uid, holder, holder_location, addresses: listed, unbound_containers } = record;
        let state = self.sandboxes.state(&attachment.container);
        let pid = self.sandboxes.pid(attachment.container.tag());
        let recorded = match holder {
            None if unbound_containers.iter().any(|former| former == attachment.container.as_str()) => {
                RecordedHolder::Dismissed
            }
            None => RecordedHolder::Vacant,
            Some((container, generation)) => {
                let may_live = match holder_location {
                    HolderLocation::ThisNode => self.may_live(&container, state).await?,
                    HolderLocation::OtherNode => true,
                    HolderLocation::PodReplaced => false,
                };
                RecordedHolder::Container { tag: container.tag(), generation, may_live }
            }
        };
        let belongs = |uid: &String| pid.is_some_and(|pid| sandbox::belongs_to(pid, uid));
        let same_pod = uid.as_ref().is_some_and(belongs);
        let observation = Observation { recorded, listed, same_pod, alive: state != SandboxState::Dead };
        tracing::debug!(pod = %attachment.pod, container = %attachment.container, finding = ?observation, "looked at a link's records");
        Ok((observation, uid))
    }

    /// Whether a holder on this node may live. One whose process was never seen is gone only where processes can be found
    /// at all, as the asking link's could, and it has no link.
    async fn may_live(&self, holder: &ContainerId, asking: SandboxState) -> Result<bool, NodeError> {
        match self.sandboxes.state(holder) {
            SandboxState::Alive => Ok(true),
            SandboxState::Dead => Ok(false),
            SandboxState::Unknown if asking != SandboxState::Alive => Ok(true),
            SandboxState::Unknown => {
                let guarded = self.datapath.links()?.iter().any(|link| link.info.container_tag == holder.tag());
                Ok(guarded || self.network.links().await?.iter().any(|link| link.container == *holder))
            }
        }
    }

    /// The record lags behind: it names this link's container from now on.
    async fn rebind(&self, link: IfIndex) -> Result<(), NodeError> {
        let (Some(attachment), Some(owner)) = (self.attachment(link).await?, self.bindings().owner(link)) else {
            return Ok(());
        };
        let _lock = self.locks.lock(&attachment.pod).await;
        let (observation, uid) = self.observe(&attachment).await?;
        let Some(uid) = uid.filter(|_| observation.needs_rebind()) else { return Ok(()) };
        let rebound = self.ipam.rebind(&attachment.pod, &uid, &attachment.container, &attachment.interface).await?;
        let Some((generation, listed)) = rebound else { return Ok(()) };
        tracing::info!(pod = %attachment.pod, container = %attachment.container, %generation, "rebound: the record names this sandbox now");
        self.metrics.rebound("Rebound");
        let note =
            format!("container {} holds the pod's addresses now, at generation {generation}", attachment.container);
        self.events.record_for_pod(&attachment.pod, EventType::Normal, "AddressRebound", "Rebind", note);
        self.bind_link(link, owner, generation, listed.iter().copied())?;
        self.readvertise(link, listed).await
    }

    /// The sandbox is dead, and two observations agree: the record loses its holder, the addresses stay.
    async fn collect(&self, link: IfIndex) -> Result<(), NodeError> {
        let Some(attachment) = self.attachment(link).await? else { return Ok(()) };
        let _lock = self.locks.lock(&attachment.pod).await;
        if self.ipam.end_holder(&attachment.pod, &attachment.container, SANDBOX_DIED).await? {
            self.metrics.rebound(SANDBOX_DIED);
            tracing::info!(pod = %attachment.pod, container = %attachment.container, reason = SANDBOX_DIED, "collected: the record has no holder");
        }
        if let Some(host) = self.network.link_by_index(link).await? {
            self.network.withdraw(&host.name).await?;
        }
        Ok(())
    }
}

pub(super) fn link_info(owner: LinkOwner, generation: Generation, mode: GuardMode) -> LinkInfo {
    LinkInfo { mac: owner.mac, container_tag: owner.tag, generation, mode }
}
