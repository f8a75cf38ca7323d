//! Driving the binding state machine: the kernel's map follows its actions, and what the guard sees goes into it.
//!
//! ```text
//! ADD, DEL, adoption ──┐                      ┌─▶ datapath: current, stale
//! guard's events ──────┼─▶ Bindings::step ────┼─▶ look: live reads ─▶ Found ─▶ (again)
//! sandbox deaths ──────┘                      ├─▶ records: rebind, collect
//!                                             └─▶ people: Kubernetes events
//! ```

use std::{net::IpAddr, sync::MutexGuard};

use holdfast_core::{
    binding::{Action, Bindings, Event, Finding, Party, Sight, State},
    id::{ContainerId, Generation, IfIndex, IfName, PodName},
};
use kube::runtime::events::EventType;

use super::{Attach, AttachError};
use crate::{
    datapath::{BindingEntry, BindingState, DatapathError, EventKind, GuardEvent, LinkInfo, Mode},
    ipam::PodRecord,
    sandbox::{self, Life},
};

/// A link's container and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) pod: PodName,
    pub(super) container: ContainerId,
    pub(super) interface: IfName,
}

impl Attach {
    fn bindings(&self) -> MutexGuard<'_, Bindings> {
        self.bindings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a link of the container is guarded.
    pub(super) fn is_guarded(&self, container: &ContainerId) -> bool {
        !self.links_of(container.tag()).is_empty()
    }

    /// The guarded links of a container.
    pub(super) fn links_of(&self, tag: u64) -> Vec<IfIndex> {
        self.bindings().links_of(tag)
    }

    /// Takes an event, carries out at once what concerns the kernel's map, and gives back the rest. The map is written
    /// under the machine's lock: it never shows another order of events.
    pub(super) fn step(&self, event: Event) -> Result<Vec<Action>, AttachError> {
        let now = self.started.elapsed();
        let mut bindings = self.bindings();
        let mut rest = Vec::new();
        for action in bindings.step(now, event) {
            match action {
                Action::MakeCurrent { link, party, address, generation } => {
                    let Party { tag: container_tag, mac } = party;
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
            bindings.adopt(link, Party { tag, mac }, address, generation, state);
        }
        Ok(())
    }

    /// The kernel knows the holder before the pod can send its first packet.
    pub(super) fn bind_link(
        &self,
        link: IfIndex,
        party: Party,
        generation: Generation,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), AttachError> {
        for address in addresses {
            self.step(Event::Bind { link, party, address, generation })?;
        }
        Ok(())
    }

    /// Puts the guard on the host side of a pod's link and binds its addresses.
    pub(super) fn guard_host_link(
        &self,
        (link, name, mode): (IfIndex, &IfName, Mode),
        party: Party,
        generation: Generation,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), AttachError> {
        self.datapath.attach_pod_link(link, name, link_info(party, generation, mode))?;
        self.bind_link(link, party, generation, addresses)
    }

    /// Takes everything of a container's links out of the machine and the kernel.
    pub(super) fn unguard(&self, container: &ContainerId, name: &IfName) -> Result<(), AttachError> {
        let tag = container.tag();
        if let Some(process) = self.sandboxes.forget(tag) {
            self.datapath.forget_sandbox(process)?;
        }
        for link in self.datapath.links()?.into_iter().filter(|link| link.info.container_tag == tag) {
            // An inside link has the name that it has in the pod.
            if link.inside || link.name == *name {
                self.datapath.detach_pod_link(link.link, &link.name)?;
                self.step(Event::Detach { link: link.link })?;
            }
        }
        Ok(self.datapath.detach_pod_link_named(name)?)
    }

    /// What the guard saw.
    pub async fn handle(&self, event: &GuardEvent) {
        let sight = |sight| Event::Seen { link: event.link, address: event.address, sight };
        match event.kind {
            EventKind::Stale | EventKind::LeaseExpired => self.follow(sight(Sight::Stale), Some(event)).await,
            EventKind::Foreign => self.follow(sight(Sight::Foreign), Some(event)).await,
            EventKind::Mac => self.follow(sight(Sight::Mac), Some(event)).await,
            EventKind::Conflict => self.follow(Event::Conflict { address: event.address }, Some(event)).await,
            EventKind::SandboxExit => self.sandbox_exited(event.container_tag, event.process).await,
        }
        self.metrics.handled(event.age());
    }

    /// Takes an event and carries out all that comes of it, and of that.
    pub(super) async fn follow(&self, event: Event, seen: Option<&GuardEvent>) {
        let mut pending = vec![event];
        while let Some(event) = pending.pop() {
            let actions = self.step(event).unwrap_or_else(|error| {
                tracing::error!(%error, "the guard's map was not changed; the next comparison mends it");
                Vec::new()
            });
            for action in actions {
                match self.perform(action, seen).await {
                    Ok(next) => pending.extend(next),
                    Err(error) => {
                        tracing::warn!(?action, %error, "not carried out; the next comparison looks again");
                    }
                }
            }
        }
    }

    async fn perform(&self, action: Action, seen: Option<&GuardEvent>) -> Result<Option<Event>, AttachError> {
        match action {
            Action::MakeCurrent { .. } | Action::MakeStale { .. } => Ok(None),
            Action::Look { link } => {
                let found = self.look(link).await?;
                Ok(found.map(|finding| Event::Found { link, finding }))
            }
            Action::Rebind { link } => self.rebind(link).await.map(|()| None),
            Action::Collect { link } => self.collect(link).await.map(|()| None),
            Action::Withdraw { link } => {
                if let Some(host) = self.network.links().await?.into_iter().find(|host| host.index == link) {
                    let withdrawn = self.network.withdraw(&host.name).await?;
                    if !withdrawn.is_empty() {
                        tracing::info!(link = %host.name, container = %host.container, addresses = ?withdrawn, "fenced");
                    }
                }
                Ok(None)
            }
            Action::Report { link, address, report } => {
                if let Some(seen) = seen {
                    self.tell(link, address, report, seen).await;
                }
                Ok(None)
            }
        }
    }

    /// The mode that a link was guarded with; the node's for one that was not.
    pub(super) fn mode_of(&self, link: IfIndex) -> Result<Mode, AttachError> {
        let known = self.datapath.links()?.into_iter().find(|known| known.link == link);
        Ok(known.map_or(self.mode, |known| known.info.mode))
    }

    /// Makes a link known to the machine before it has any address.
    pub(super) fn know(&self, link: IfIndex, party: Party) {
        self.bindings().know(link, party);
    }

    /// Looks at a link's records, and does what they ask for.
    pub(super) async fn reconsider(&self, link: IfIndex) {
        match self.look(link).await {
            Ok(Some(finding)) => self.follow(Event::Found { link, finding }, None).await,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(link = link.0, %error, "a link's records were not read; the next comparison looks again");
            }
        }
    }

    /// Whose link it is.
    pub(super) async fn tenant(&self, link: IfIndex) -> Result<Option<Tenant>, AttachError> {
        let known = self.tenants.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&link).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let host = self.network.links().await?.into_iter().find(|host| host.index == link);
        Ok(host.and_then(|host| Some(Tenant { pod: host.pod?, container: host.container, interface: host.ifname })))
    }

    /// What live reads say of a link. None: nobody knows whose it is, and nothing is concluded.
    async fn look(&self, link: IfIndex) -> Result<Option<Finding>, AttachError> {
        let Some(tenant) = self.tenant(link).await? else { return Ok(None) };
        let _turn = self.locks.turn(&tenant.pod).await;
        self.look_in_turn(&tenant).await.map(Some)
    }

    /// In the pod's turn no ADD is half done: a holder that the record names has its link.
    async fn look_in_turn(&self, tenant: &Tenant) -> Result<Finding, AttachError> {
        let PodRecord { uid, holder, here, listed } = self.ipam.look(&tenant.pod, &tenant.interface).await?;
        let life = self.sandboxes.life(&tenant.container);
        let process = self.sandboxes.process(tenant.container.tag());
        let holder_alive = match &holder {
            Some((container, _)) if here => self.may_live(container, life).await?,
            Some(_) => true,
            None => false,
        };
        let finding = Finding {
            holder: holder.map(|(container, generation)| (container.tag(), generation)),
            listed,
            same_pod: uid.zip(process).is_some_and(|(uid, process)| sandbox::belongs_to(process, &uid)),
            alive: life != Life::Dead,
            holder_alive,
        };
        tracing::debug!(pod = %tenant.pod, container = %tenant.container, ?finding, "looked at a link's records");
        Ok(finding)
    }

    /// Whether a holder on this node may live. One whose process was never seen is gone only where processes can be found
    /// at all, as the asking link's could, and it has no link.
    async fn may_live(&self, holder: &ContainerId, asking: Life) -> Result<bool, AttachError> {
        match self.sandboxes.life(holder) {
            Life::Alive => Ok(true),
            Life::Dead => Ok(false),
            Life::Unknown if asking != Life::Alive => Ok(true),
            Life::Unknown => {
                let guarded = self.datapath.links()?.iter().any(|link| link.info.container_tag == holder.tag());
                Ok(guarded || self.network.links().await?.iter().any(|link| link.container == *holder))
            }
        }
    }

    /// The record lags behind: it names this link's container from now on.
    async fn rebind(&self, link: IfIndex) -> Result<(), AttachError> {
        let (Some(tenant), Some(party)) = (self.tenant(link).await?, self.bindings().party(link)) else {
            return Ok(());
        };
        let _turn = self.locks.turn(&tenant.pod).await;
        let finding = self.look_in_turn(&tenant).await?;
        if !finding.same_pod || !finding.alive || finding.holder_alive {
            return Ok(());
        }
        let rebound = self.ipam.rebind(&tenant.pod, &tenant.container, &tenant.interface).await?;
        let Some((generation, listed)) = rebound else { return Ok(()) };
        tracing::info!(pod = %tenant.pod, container = %tenant.container, %generation, "rebound: the record names this sandbox now");
        self.metrics.rebound("Rebound");
        let note = format!("container {} holds the pod's addresses now, at generation {generation}", tenant.container);
        self.tell_pod(&tenant.pod, EventType::Normal, "AddressRebound", &note).await;
        self.bind_link(link, party, generation, listed)
    }

    /// The sandbox is dead, and two observations agree: the record loses its holder, the addresses stay.
    async fn collect(&self, link: IfIndex) -> Result<(), AttachError> {
        let Some(tenant) = self.tenant(link).await? else { return Ok(()) };
        let _turn = self.locks.turn(&tenant.pod).await;
        if self.ipam.end_holder(&tenant.pod, &tenant.container, "SandboxDied").await? {
            self.metrics.rebound("SandboxDied");
            tracing::info!(pod = %tenant.pod, container = %tenant.container, reason = "SandboxDied", "collected: the record has no holder");
        }
        if let Some(host) = self.network.links().await?.into_iter().find(|host| host.index == link) {
            self.network.withdraw(&host.name).await?;
        }
        Ok(())
    }
}

pub(super) fn link_info(party: Party, generation: Generation, mode: Mode) -> LinkInfo {
    LinkInfo { mac: party.mac, container_tag: party.tag, generation, mode }
}
