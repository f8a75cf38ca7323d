//! ADD in the records: gives a container the addresses that its pod keeps, or free ones.

use std::{collections::HashSet, net::IpAddr, time::Instant};

use futures::future::try_join_all;
use holdfast_api::{
    endpoint::SpiderEndpoint,
    store::{StoreError, VerifyOutcome},
};
use holdfast_core::id::PodName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::{
    allocator::Allocator,
    assigned_address::AssignedAddress,
    bind_progress::BindProgress,
    bind_spec::BindSpec,
    error::IpamError,
    ipam::{ATTEMPTS, Ipam},
    requests::{BindRequest, IpAllocation, UnbindOutcome, UnbindRequest},
};

impl Ipam {
    /// Gives the container its addresses: those that its pod keeps, or free ones.
    pub async fn bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError> {
        let started = Instant::now();
        let outcome = self.try_bind(request).await;
        self.metrics.allocated(&outcome, started.elapsed());
        outcome
    }

    async fn try_bind(&self, request: &BindRequest<'_>) -> Result<IpAllocation, IpamError> {
        let (pod, namespace, endpoint) = tokio::try_join!(
            self.store.pod(&request.pod),
            self.store.namespace(&request.pod.namespace),
            self.store.endpoint(&request.pod),
        )?;
        let pod = self.admit(request, pod)?;
        let spec = self.bind_spec(request, &pod, namespace).await?;
        let mut progress = BindProgress::default();
        let outcome = self.bind_with_attempts(&spec, endpoint, &mut progress).await;
        if outcome.is_err() && progress.needs_undo() {
            self.undo_bind(request, progress.lost()).await;
        }
        outcome
    }

    /// Admits only the API server's current pod of that name, and only on this node.
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

    async fn bind_spec<'a>(
        &'a self,
        request: &'a BindRequest<'a>,
        pod: &'a Pod,
        namespace: Option<Namespace>,
    ) -> Result<BindSpec<'a>, IpamError> {
        let spec = BindSpec::new(&self.settings, request, pod, namespace)?;
        // The watch may not have delivered a pool that was created a moment ago.
        if spec.names_unknown_pools(&self.pools) {
            let (pools, reserved) = tokio::try_join!(self.store.pools(), self.store.reserved())?;
            self.pools.replace(pools, &reserved);
        }
        if !self.pools.has_node_selectors() {
            return Ok(spec);
        }
        let node = self.store.node(&self.settings.node).await?;
        Ok(spec.with_node_labels(node.and_then(|node| node.metadata.labels).unwrap_or_default()))
    }

    async fn bind_with_attempts(
        &self,
        spec: &BindSpec<'_>,
        mut endpoint: Option<SpiderEndpoint>,
        progress: &mut BindProgress,
    ) -> Result<IpAllocation, IpamError> {
        let pod = &spec.request.pod;
        for _ in 0..ATTEMPTS {
            progress.read_endpoint(endpoint.as_ref());
            match self.attempt_bind(spec, endpoint.as_ref(), progress).await {
                Ok(Some(allocation)) => return Ok(allocation),
                Ok(None) => {}
                Err(IpamError::Store(error)) if error.is_conflict() => self.metrics.allocation_conflict(),
                Err(error) => return Err(error),
            }
            endpoint = self.store.endpoint(pod).await?;
        }
        Err(IpamError::Contended(pod.clone()))
    }

    /// Makes one attempt from `before`. Returns none where the records changed since they were read: start over.
    async fn attempt_bind(
        &self,
        spec: &BindSpec<'_>,
        before: Option<&SpiderEndpoint>,
        progress: &mut BindProgress,
    ) -> Result<Option<IpAllocation>, IpamError> {
        let kept = spec.kept_addresses(before, progress.lost());
        let is_missing = |family: &_| !kept.iter().any(|kept| kept.family() == *family);
        let missing: Vec<_> = spec.families().filter(is_missing).collect();
        let acquired = Allocator::new(self, spec, spec.on_other_interfaces(before)).allocate(&missing).await?;
        let assigned = [kept.as_slice(), &acquired].concat();
        if assigned.is_empty() {
            let request = spec.request;
            return Err(IpamError::NoDefault { pod: request.pod.clone(), interface: request.interface.clone() });
        }
        let next = spec.next_endpoint(before, &assigned, &self.pools, Timestamp::now());
        let is_changed = before != Some(&next);
        if is_changed {
            progress.begin_write();
        }
        let pod = &spec.request.pod;
        let write = async { if is_changed { self.store.write_endpoint(&next).await } else { Ok(next.clone()) } };
        let (written, verified) = tokio::join!(write, self.verify_claims(pod, &kept));
        let (written, mut verified) = (written?, verified?);
        // Acquired addresses are verified after the endpoint lists them: from then on no release can finish.
        verified.extend(self.verify_claims(pod, &acquired).await?);
        for (assigned, verified) in assigned.iter().zip(verified) {
            let is_held = match verified {
                VerifyOutcome::Held => true,
                VerifyOutcome::Gone => self.recreate_claim(assigned, pod).await?,
                VerifyOutcome::Lost(_) => false,
            };
            if !is_held {
                let address = assigned.address();
                tracing::warn!(%pod, %address, "the address belongs to another endpoint; the pod gets a new one");
                progress.lose(address);
            }
        }
        Ok(progress.is_complete(&next).then(|| spec.allocation(&written, progress.displaced(&written))))
    }

    async fn verify_claims(
        &self,
        pod: &PodName,
        assigned: &[AssignedAddress],
    ) -> Result<Vec<VerifyOutcome>, StoreError> {
        try_join_all(assigned.iter().map(|assigned| self.store.verify(assigned.address(), pod))).await
    }

    /// Creates the claim of a listed address again, after it was deleted. Returns false where another endpoint came first.
    async fn recreate_claim(&self, assigned: &AssignedAddress, pod: &PodName) -> Result<bool, IpamError> {
        match self.store.create_claim(assigned.address(), &assigned.pool, pod).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Undoes an ADD that failed after it may have written: the record must not name a container that never got its
    /// addresses, nor list addresses of other endpoints.
    async fn undo_bind(&self, request: &BindRequest<'_>, lost: &HashSet<IpAddr>) {
        let pod = &request.pod;
        let dropped = self.store.edit_endpoint(pod, |endpoint| endpoint.drop_addresses(lost)).await;
        let (container, interface) = (&request.container, &request.interface);
        let request = UnbindRequest { pod, container, interface, has_other_interfaces: false, reason: "AddFailed" };
        let unbound = self.try_unbind(&request).await;
        match (dropped, unbound) {
            (Ok(_), Ok(UnbindOutcome::Released(addresses))) => self.release_addresses(pod, &addresses).await,
            (Ok(_), Ok(_)) => {}
            (Err(error), _) => {
                tracing::warn!(%pod, %error, "the endpoint of a failed ADD still lists addresses of other endpoints");
            }
            (_, Err(error)) => tracing::warn!(%pod, %error, "the endpoint of a failed ADD was not restored"),
        }
    }
}

#[cfg(test)]
mod tests;
