//! DEL in the records: takes an interface of a container out of its endpoint.

use std::{net::IpAddr, time::Instant};

use holdfast_api::{
    endpoint::{HolderState, SpiderEndpoint},
    store::StoreError,
};
use jiff::Timestamp;

use crate::{
    error::IpamError,
    ipam::{ATTEMPTS, Ipam},
    requests::{UnbindOutcome, UnbindRequest},
};

/// The write by which an interface leaves an endpoint.
#[derive(Debug, Clone, PartialEq)]
enum UnbindAction {
    /// No write: the endpoint does not name the container, or the sandbox stays its holder.
    Nothing,
    /// The endpoint loses its holder and keeps its addresses.
    Reserve(SpiderEndpoint),
    /// The endpoint loses the interface; the addresses are released.
    RemoveInterface(SpiderEndpoint, Vec<IpAddr>),
    /// The endpoint, which has no other interface, is deleted; the addresses are released.
    Delete(SpiderEndpoint, Vec<IpAddr>),
}

impl UnbindAction {
    /// Returns the write for `request`. A late DEL, of a container that the endpoint does not name, changes nothing.
    fn new(
        mut endpoint: SpiderEndpoint,
        request: &UnbindRequest<'_>,
        sticky_stateful_sets: bool,
        now: Timestamp,
    ) -> Self {
        let listed = endpoint.addresses();
        let Some(status) = endpoint.status.as_mut() else { return Self::Nothing };
        if status.current.container_id.as_ref() != Some(request.container) {
            return Self::Nothing;
        }
        if status.is_sticky() && sticky_stateful_sets {
            if request.has_other_interfaces {
                return Self::Nothing;
            }
            status.end_holder(now, request.reason);
            status.current.state = HolderState::Reserved;
            return Self::Reserve(endpoint);
        }
        status.current.ips.retain(|ip| ip.interface != request.interface.as_str());
        if status.current.ips.is_empty() {
            return Self::Delete(endpoint, listed);
        }
        let released = listed.into_iter().filter(|address| !endpoint.lists(*address)).collect();
        Self::RemoveInterface(endpoint, released)
    }
}

impl Ipam {
    /// Takes an interface of the container out of the records, if the endpoint names that container. A late DEL changes
    /// nothing.
    pub async fn unbind(&self, request: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError> {
        let started = Instant::now();
        let outcome = self.try_unbind(request).await;
        self.metrics.released(&outcome, started.elapsed());
        outcome
    }

    /// Does what [`Ipam::unbind`] does, uncounted: an ADD undoes its writes by it.
    pub(crate) async fn try_unbind(&self, request: &UnbindRequest<'_>) -> Result<UnbindOutcome, IpamError> {
        for _ in 0..ATTEMPTS {
            let Some(endpoint) = self.store.endpoint(request.pod).await? else { return Ok(UnbindOutcome::Nothing) };
            let action = UnbindAction::new(endpoint, request, self.settings.sticky_stateful_sets, Timestamp::now());
            match self.carry_out(action).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(error) if error.is_conflict() => self.metrics.release_conflict(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(request.pod.clone()))
    }

    /// Carries an action out. Returns none where the endpoint changed since it was read.
    async fn carry_out(&self, action: UnbindAction) -> Result<Option<UnbindOutcome>, StoreError> {
        match action {
            UnbindAction::Nothing => Ok(Some(UnbindOutcome::Nothing)),
            UnbindAction::Reserve(endpoint) => {
                self.store.write_endpoint(&endpoint).await?;
                Ok(Some(UnbindOutcome::Reserved))
            }
            UnbindAction::RemoveInterface(endpoint, released) => {
                self.store.write_endpoint(&endpoint).await?;
                Ok(Some(UnbindOutcome::Released(released)))
            }
            UnbindAction::Delete(endpoint, released) => {
                let is_deleted = self.store.delete_endpoint(&endpoint).await?;
                Ok(is_deleted.then_some(UnbindOutcome::Released(released)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
