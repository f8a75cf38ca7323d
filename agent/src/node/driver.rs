//! The guard's driver: it owns the binding machine and keeps the guard's maps as the machine decides.
//!
//! ```text
//! ADD, DEL, adoption ──┐                      ┌─▶ guard: current, stale
//! guard's events ──────┼─▶ Bindings::step ────┼─▶ verify: live reads, with the pod locked ─▶ Observed ─▶ (again)
//! ends of sandboxes ───┘                      ├─▶ records: rebind, collect
//!                                             ├─▶ links: withdraw
//!                                             └─▶ Kubernetes events
//! ```
//!
//! The other actions are carried out in [`actions`](super::actions), the exits of processes handled in
//! [`sandbox_exit`](super::sandbox_exit), and violations reported in [`violations`](super::violations).

use std::{net::IpAddr, sync::Arc};

use holdfast_api::event_recorder::{EventRateLimit, EventRecorder};
use holdfast_core::{
    binding::{Action, Bindings, Event, LinkOwner, State, Violation},
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, IfName},
};
use holdfast_guard::{BindingEntry, BindingState, DatapathError, EventKind, GuardEvent, GuardMetrics, Link, LinkInfo};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    attachment::{Attachment, AttachmentRegistry},
    backend::Backends,
    background::Background,
    error::NodeError,
    pod_locks::PodLocks,
    sandbox::Sandboxes,
};

/// The guard's driver. Cheap to clone; all clones share one machine.
#[derive(Clone)]
pub struct GuardDriver {
    pub(super) backends: Backends,
    /// The mode of pods without an annotation.
    pub(super) mode: GuardMode,
    pub(super) metrics: GuardMetrics,
    /// Taken by each verb, and by whatever reads a pod's records to act on them.
    pub(super) locks: Arc<PodLocks>,
    /// The machine, which decides what the guard's map of bindings holds.
    bindings: Arc<Mutex<Bindings>>,
    pub(super) attachments: Arc<AttachmentRegistry>,
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) events: EventRecorder,
    pub(super) event_limit: Arc<Mutex<EventRateLimit>>,
    pub(super) background: Background,
    started: Instant,
}

impl GuardDriver {
    /// Returns a driver that has taken over what the guard enforces already.
    pub(super) fn new(
        backends: Backends,
        mode: GuardMode,
        metrics: GuardMetrics,
        events: EventRecorder,
    ) -> Result<Self, DatapathError> {
        let driver = Self {
            mode,
            metrics,
            locks: Arc::default(),
            bindings: Arc::default(),
            attachments: Arc::default(),
            sandboxes: Arc::new(Sandboxes::new(Arc::clone(&backends.processes))),
            events,
            event_limit: Arc::default(),
            background: Background::default(),
            started: Instant::now(),
            backends,
        };
        driver.restore_bindings()?;
        Ok(driver)
    }

    /// Takes over the guard's map, which an earlier agent wrote.
    fn restore_bindings(&self) -> Result<(), DatapathError> {
        let mut bindings = self.bindings();
        for binding in self.backends.guard.bindings()? {
            let BindingEntry { link, address, generation, container_tag: tag, mac } = binding.entry;
            let state = if binding.state == BindingState::Current { State::Current } else { State::Stale };
            bindings.restore(link, LinkOwner { tag, mac }, address, generation, state);
        }
        Ok(())
    }

    /// Locks the machine. Its holder must not await.
    pub(super) fn bindings(&self) -> MutexGuard<'_, Bindings> {
        self.bindings.lock()
    }

    /// Takes an event, writes the guard's map at once, and returns the other actions. The map is written
    /// under the machine's lock: it never shows another order of events.
    pub(super) fn step(&self, event: Event) -> Result<Vec<Action>, NodeError> {
        let now = self.started.elapsed();
        let mut bindings = self.bindings();
        let mut rest = Vec::new();
        for action in bindings.step(now, event) {
            match action {
                Action::MakeCurrent { link, owner, address, generation } => {
                    let LinkOwner { tag: container_tag, mac } = owner;
                    self.backends.guard.bind(&BindingEntry { link, address, generation, container_tag, mac })?;
                }
                Action::MakeStale { link, address } => self.backends.guard.mark_stale(link, address)?,
                other => rest.push(other),
            }
        }
        Ok(rest)
    }

    /// As [`Self::step`], for callers that cannot do anything about an error.
    pub(super) fn step_or_log(&self, event: Event) -> Vec<Action> {
        self.step(event).unwrap_or_else(|error| {
            tracing::error!(%error, "the guard's map was not changed; the next reconciliation repairs it");
            Vec::new()
        })
    }

    /// Repairs the guard's map where a failed write left it behind the machine's decisions.
    pub(super) fn repair_map(&self) -> Result<(), NodeError> {
        let bindings = self.bindings();
        for holdfast_guard::Binding { entry, state } in self.backends.guard.bindings()? {
            let decided = bindings.state(entry.link, entry.address);
            let current = decided == Some(State::Current);
            match (state, decided) {
                (BindingState::Current, Some(_)) if !current => {
                    self.backends.guard.mark_stale(entry.link, entry.address)?;
                }
                (BindingState::Stale, Some(_)) if current => self.backends.guard.bind(&entry)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a link known to the machine before it has any address.
    pub(super) fn register(&self, link: IfIndex, owner: LinkOwner) {
        self.bindings().register(link, owner);
    }

    /// Binds addresses to a link: the guard knows the holder before the pod can send its first packet.
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
        (link, name): (IfIndex, &IfName),
        mode: GuardMode,
        owner: LinkOwner,
        generation: Generation,
    ) -> Result<(), NodeError> {
        Ok(self.backends.guard.attach_pod_link(link, name, link_info(owner, generation, mode))?)
    }

    /// Silences an interface of a container that is being taken down. Returns its links, on which the guard stays until
    /// they are gone. With a container's last interface its sandbox is forgotten.
    pub(super) fn fence(&self, container: &ContainerId, interface: &IfName) -> Result<Vec<Link>, NodeError> {
        let links = self.guarded_links(container, interface)?.0;
        for link in &links {
            self.step(Event::Detaching { link: link.link })?;
        }
        if !self.has_other_interfaces(container, interface)?
            && let Some(pid) = self.sandboxes.forget(container.tag())
        {
            self.backends.guard.forget_sandbox(pid)?;
        }
        Ok(links)
    }

    /// Removes a link that is gone from the machine and the guard.
    pub(super) fn detach(&self, link: &Link) -> Result<(), NodeError> {
        self.backends.guard.detach_pod_link(link.link, &link.name)?;
        self.step(Event::Detached { link: link.link })?;
        self.attachments.remove(link.link);
        Ok(())
    }

    /// Returns whether a link of the container is known to the machine.
    pub(super) fn is_guarded(&self, container: &ContainerId) -> bool {
        !self.bindings().links_of(container.tag()).is_empty()
    }

    /// Returns the container's links that the guard sits on: those of this interface, and the others.
    pub(super) fn guarded_links(
        &self,
        container: &ContainerId,
        interface: &IfName,
    ) -> Result<(Vec<Link>, Vec<Link>), NodeError> {
        let host = container.host_link(interface);
        let links = self.backends.guard.links()?.into_iter().filter(|link| link.info.container_tag == container.tag());
        // A link inside the pod has the name that it has there.
        Ok(links.partition(|link| link.name == if link.inside { interface.clone() } else { host.clone() }))
    }

    /// Returns whether the guard sits on this interface of the container.
    pub(super) fn is_attached(&self, container: &ContainerId, interface: &IfName) -> Result<bool, NodeError> {
        Ok(!self.guarded_links(container, interface)?.0.is_empty())
    }

    /// Returns whether the guard sits on another interface of the container, which is not being taken down as well.
    pub(super) fn has_other_interfaces(&self, container: &ContainerId, interface: &IfName) -> Result<bool, NodeError> {
        let others = self.guarded_links(container, interface)?.1;
        let bindings = self.bindings();
        Ok(others.iter().any(|link| !bindings.is_detaching(link.link)))
    }

    /// Returns the attachment of a link, from the link's alias if need be. None: it cannot be told.
    pub(super) async fn attachment(&self, link: IfIndex) -> Result<Option<Attachment>, NodeError> {
        let known = self.attachments.get(link);
        if known.is_some() {
            return Ok(known);
        }
        let host = self.backends.links.link_by_index(link).await?;
        let attachment = host.and_then(Attachment::of_link);
        if let Some(attachment) = &attachment {
            self.attachments.insert(link, attachment.clone());
        }
        Ok(attachment)
    }

    /// Takes an event of the guard. The guard's map is written at once, in the order of the events; the future is the
    /// rest, which asks the API server.
    pub fn handle(&self, event: GuardEvent) -> impl Future<Output = ()> + Send + 'static {
        let violation = |violation| Some(Event::Violation { link: event.link, address: event.address, violation });
        let step = match event.kind {
            EventKind::Stale | EventKind::LeaseExpired => violation(Violation::Stale),
            EventKind::Foreign => violation(Violation::Foreign),
            EventKind::Mac => violation(Violation::Mac),
            EventKind::Conflict => Some(Event::Conflict { address: event.address }),
            // Nothing is fenced before it is known that no other process holds the sandbox.
            EventKind::SandboxExit => None,
        };
        let (driver, first) = (self.clone(), step.map(|step| self.step_or_log(step)));
        async move {
            let Some(actions) = first else { return driver.process_ended(&event).await };
            driver.carry_out(actions, Some(&event)).await;
            if event.kind == EventKind::Stale {
                driver.metrics.fenced(driver.backends.guard.age(&event));
            }
        }
    }
}

/// Returns what the guard is told of a pod's link.
pub(super) fn link_info(owner: LinkOwner, generation: Generation, mode: GuardMode) -> LinkInfo {
    LinkInfo { mac: owner.mac, container_tag: owner.tag, generation, mode }
}
