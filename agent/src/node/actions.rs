//! The binding machine's actions, other than writes to the guard's map, which [`GuardDriver::step`] does.
//!
//! | action | carried out by |
//! |---|---|
//! | `Verify` | live reads of pod, endpoint and sandbox, with the pod locked; they go back as `Observed` |
//! | `Rebind` | the endpoint names the link's container from now on; the guard gets its addresses |
//! | `Collect` | the endpoint names no holder any more; nothing leads to the link |
//! | `Withdraw` | nothing leads to the link |
//! | `Report` | a Kubernetes event: [`violations`](super::violations) |

use std::net::IpAddr;

use holdfast_api::event_recorder::EventType;
use holdfast_core::{
    binding::{Action, Event, Observation, RecordedHolder},
    id::{ContainerId, IfIndex},
};
use holdfast_guard::GuardEvent;
use holdfast_ipam::{HolderLocation, PodRecord, SANDBOX_DIED};

use super::{attachment::Attachment, driver::GuardDriver, error::NodeError, sandbox::SandboxState};

impl GuardDriver {
    /// Carries out actions, and those that follow from them. `seen` is the guard's event that they come from.
    pub(super) async fn carry_out(&self, mut actions: Vec<Action>, seen: Option<&GuardEvent>) {
        while let Some(action) = actions.pop() {
            match self.perform(action, seen).await {
                Ok(next) => actions.extend(next),
                Err(error) => tracing::warn!(?action, %error, "not carried out; the next reconciliation looks again"),
            }
        }
    }

    async fn perform(&self, action: Action, seen: Option<&GuardEvent>) -> Result<Vec<Action>, NodeError> {
        match action {
            Action::MakeCurrent { .. } | Action::MakeStale { .. } => {}
            Action::Verify { link } => return self.verify(link).await,
            Action::Rebind { link } => self.rebind(link).await?,
            Action::Collect { link } => self.collect(link).await?,
            Action::Withdraw { link } => self.withdraw(link).await?,
            Action::Report { link, address, report } => {
                if let Some(seen) = seen {
                    self.report_violation(link, address, report, seen).await;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Verifies a link, and carries out the actions that follow.
    pub(super) async fn verify_link(&self, link: IfIndex) {
        self.carry_out(vec![Action::Verify { link }], None).await;
    }

    /// Reads a link's records live and gives them to the machine. The pod is locked: no ADD comes between the reads and
    /// the step. A link whose attachment is not known is left alone.
    async fn verify(&self, link: IfIndex) -> Result<Vec<Action>, NodeError> {
        let Some(attachment) = self.attachment(link).await? else { return Ok(Vec::new()) };
        let _lock = self.locks.lock(&attachment.pod).await;
        let (observation, _) = self.observe(&attachment).await?;
        let holds = matches!(observation.recorded, RecordedHolder::Container { tag, .. } if tag == attachment.container.tag() && observation.alive);
        let listed = observation.listed.clone();
        let actions = self.step(Event::Observed { link, observation })?;
        if holds {
            self.readvertise(link, listed).await?;
        }
        Ok(actions)
    }

    /// Returns the records and the sandbox of an attachment, and the UID of its pod. The caller has locked the pod,
    /// so that no ADD is half done: a holder that the record names has its link.
    async fn observe(&self, attachment: &Attachment) -> Result<(Observation, Option<String>), NodeError> {
        let Attachment { pod, container, interface } = attachment;
        let record = self.backends.records.pod_record(pod, interface).await?;
        let PodRecord { uid, holder, holder_location, addresses: listed, unbound_containers } = record;
        let state = self.sandboxes.state(container).await;
        let pid = self.sandboxes.pid(container.tag());
        let recorded = match holder {
            None if unbound_containers.iter().any(|former| former == container.as_str()) => RecordedHolder::Dismissed,
            None => RecordedHolder::Vacant,
            Some((holder, generation)) => {
                let may_live = match holder_location {
                    HolderLocation::ThisNode => self.may_live(&holder, state).await?,
                    HolderLocation::OtherNode => true,
                    HolderLocation::PodReplaced => false,
                };
                RecordedHolder::Container { tag: holder.tag(), generation, may_live }
            }
        };
        let same_pod = match (&uid, pid) {
            (Some(uid), Some(pid)) => self.backends.processes.belongs_to_pod(pid, uid).await,
            _ => false,
        };
        let observation = Observation { recorded, listed, same_pod, alive: state != SandboxState::Dead };
        tracing::debug!(%pod, %container, finding = ?observation, "looked at a link's records");
        Ok((observation, uid))
    }

    /// Returns whether a recorded holder on this node may live. One whose process was never seen is gone only where
    /// processes can be found at all, as the asking link's could, and it has no link.
    async fn may_live(&self, holder: &ContainerId, asking: SandboxState) -> Result<bool, NodeError> {
        match self.sandboxes.state(holder).await {
            SandboxState::Alive => Ok(true),
            SandboxState::Dead => Ok(false),
            SandboxState::Unknown if asking != SandboxState::Alive => Ok(true),
            SandboxState::Unknown => {
                let guarded = self.backends.guard.links()?.iter().any(|link| link.info.container_tag == holder.tag());
                Ok(guarded || self.backends.links.links().await?.iter().any(|link| link.container == *holder))
            }
        }
    }

    /// The record lags behind: it names this link's container from now on.
    async fn rebind(&self, link: IfIndex) -> Result<(), NodeError> {
        let (Some(attachment), Some(owner)) = (self.attachment(link).await?, self.bindings().owner(link)) else {
            return Ok(());
        };
        let Attachment { pod, container, interface } = &attachment;
        let _lock = self.locks.lock(pod).await;
        let (observation, uid) = self.observe(&attachment).await?;
        let Some(uid) = uid.filter(|_| observation.needs_rebind()) else { return Ok(()) };
        let rebound = self.backends.records.rebind(pod, &uid, container, interface).await?;
        let Some((generation, listed)) = rebound else { return Ok(()) };
        tracing::info!(%pod, %container, %generation, "rebound: the record names this sandbox now");
        self.metrics.rebound("Rebound");
        let note = format!("container {container} holds the pod's addresses now, at generation {generation}");
        self.events.record_for_pod(pod, EventType::Normal, "AddressRebound", "Rebind", note);
        self.bind_link(link, owner, generation, listed.iter().copied())?;
        self.readvertise(link, listed).await
    }

    /// The sandbox is dead, and two observations agree: the record loses its holder, the addresses stay.
    async fn collect(&self, link: IfIndex) -> Result<(), NodeError> {
        let Some(Attachment { pod, container, .. }) = self.attachment(link).await? else { return Ok(()) };
        let _lock = self.locks.lock(&pod).await;
        if self.backends.records.end_holder(&pod, &container, SANDBOX_DIED).await? {
            self.metrics.rebound(SANDBOX_DIED);
            tracing::info!(%pod, %container, reason = SANDBOX_DIED, "collected: the record has no holder");
        }
        if let Some(host) = self.backends.links.link_by_index(link).await? {
            self.backends.links.withdraw(&host.name).await?;
        }
        Ok(())
    }

    async fn withdraw(&self, link: IfIndex) -> Result<(), NodeError> {
        let Some(host) = self.backends.links.link_by_index(link).await? else { return Ok(()) };
        let withdrawn = self.backends.links.withdraw(&host.name).await?;
        if !withdrawn.is_empty() {
            tracing::info!(link = %host.name, container = %host.container, addresses = ?withdrawn, "fenced");
        }
        Ok(())
    }

    /// Leads addresses to a link of the node again that were led away while it was not known for their holder.
    async fn readvertise(&self, link: IfIndex, listed: Vec<IpAddr>) -> Result<(), NodeError> {
        let Some(host) = self.backends.links.link_by_index(link).await? else { return Ok(()) };
        let holds = |address: &IpAddr| self.bindings().holder(*address) == Some(link);
        let missing = |address: &IpAddr| !host.addresses.contains(address) && holds(address);
        let missing: Vec<_> = listed.into_iter().filter(missing).collect();
        if !missing.is_empty() {
            tracing::info!(link = %host.name, container = %host.container, addresses = ?missing, "leads to this link again");
            self.backends.links.readvertise(&host, &missing).await?;
        }
        Ok(())
    }
}
