//! Addresses that an endpoint lists and whose claim is not the endpoint's: somebody deleted it, an older backup was
//! restored, or another IPAM still gives out addresses. Without its claim a living pod's address would be given to the
//! next one. Two looks, the second live; then the claim is created. Where another endpoint has it, that is told.

use std::{net::IpAddr, time::Duration};

use futures::{StreamExt, stream};
use holdfast_api::{
    claim::{NO_POOL, name_of},
    endpoint::SpiderEndpoint,
    store::StoreError,
};
use holdfast_core::{collect::Reason, id::PodName};
use kube::{Resource, ResourceExt};

use super::{CONCURRENCY, Controller, Requeue};

/// How long it has to be so: the watch of the endpoints may be ahead of the claims'.
const REST: Duration = Duration::from_millis(500);

/// What an endpoint lists without a claim of its own: each address, and who else claims it.
pub(super) type MissingClaims = Vec<(IpAddr, Option<PodName>)>;

impl Controller {
    /// The first look, at the caches. Answers the addresses whose time has come.
    pub(super) fn missing_claims(&mut self, name: &PodName, now: Duration) -> Option<(PodName, Vec<IpAddr>)> {
        let missing = self.missing_claims_now(name);
        if missing.is_empty() {
            self.state.missing_claims.forget(name);
            return None;
        }
        let addresses = missing.iter().map(|(address, _)| *address).collect();
        match REST.checked_sub(self.state.missing_claims.seen_for(name.clone(), missing, now)) {
            Some(left) if !left.is_zero() => {
                self.state.delay_queue.set(now + left, Requeue::Endpoint(name.clone()));
                None
            }
            _ => Some((name.clone(), addresses)),
        }
    }

    fn missing_claims_now(&self, name: &PodName) -> MissingClaims {
        // One that nobody has a right to any more is collected, with what it lists.
        let kept = |endpoint: &SpiderEndpoint| self.reflectors.pod(name).is_some() || endpoint.record().is_sticky();
        let Some(endpoint) = self.reflectors.endpoint(name).filter(|endpoint| kept(endpoint)) else {
            return Vec::new();
        };
        let owner = |address| self.state.index.claim(&name_of(address)).map(|claim| claim.endpoint.clone());
        let mut missing = Vec::new();
        for address in endpoint.addresses() {
            match owner(address) {
                Some(Some(owner)) if owner == *name => {}
                other => missing.push((address, other.flatten())),
            }
        }
        missing
    }

    /// The second look, and what follows from it.
    pub(super) async fn create_missing_claims(&self, missing: Vec<(PodName, Vec<IpAddr>)>) {
        stream::iter(missing)
            .for_each_concurrent(CONCURRENCY, |(name, addresses)| async move {
                if let Err(error) = self.create_missing(&name, &addresses).await {
                    self.outcomes.not_claimed(&name, &error);
                    self.requeue(Requeue::Endpoint(name));
                }
                self.heartbeat.progress();
            })
            .await;
    }

    async fn create_missing(&self, name: &PodName, addresses: &[IpAddr]) -> Result<(), StoreError> {
        let Some(endpoint) = self.store.endpoint(name).await? else { return Ok(()) };
        for (address, pool) in self.listed(&endpoint) {
            if addresses.contains(&address) {
                self.claim_listed(&endpoint, address, &pool, Reason::ClaimMissing).await?;
            }
        }
        Ok(())
    }

    /// Claims an address for the endpoint that lists it, unless it has it already. Answers whether that was to do.
    pub(super) async fn claim_listed(
        &self,
        endpoint: &SpiderEndpoint,
        address: IpAddr,
        pool: &str,
        reason: Reason,
    ) -> Result<bool, StoreError> {
        let name = endpoint.pod();
        match self.store.create_claim(address, pool, &name).await {
            Ok(()) => {
                self.outcomes.claimed(&name, endpoint.object_ref(&()), reason, address);
                return Ok(true);
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        // A mark on its own is taken back where marked claims are looked after.
        let theirs = self.store.claim(address).await?.filter(|claim| !claim.belongs_to(&name));
        if let Some(claim) = theirs
            && self.store.endpoint(&name).await?.is_some_and(|endpoint| endpoint.lists(address))
        {
            self.outcomes.taken(&name, endpoint.object_ref(&()), address, &claim.spec.endpoint);
        }
        Ok(false)
    }

    /// The addresses that an endpoint lists, with their pools.
    pub(super) fn listed(&self, endpoint: &SpiderEndpoint) -> Vec<(IpAddr, String)> {
        let listed = named(endpoint).into_iter();
        listed.map(|(address, pool)| (address, pool.unwrap_or_else(|| self.pool_of(address)))).collect()
    }

    /// The pool that gives an address out, for records that name none.
    fn pool_of(&self, address: IpAddr) -> String {
        let pools = self.reflectors.pools.state();
        let gives = pools.iter().filter(|pool| {
            let parsed = pool.spec.parse();
            parsed.is_ok_and(|pool| pool.addresses.contains(address))
        });
        gives.map(|pool| pool.name_any()).min().unwrap_or_else(|| NO_POOL.to_owned())
    }
}

/// The addresses that an endpoint lists, with the pools that it names.
fn named(endpoint: &SpiderEndpoint) -> Vec<(IpAddr, Option<String>)> {
    let record = endpoint.record();
    let mut named = Vec::new();
    for ip in &record.current.ips {
        for net in ip.networks() {
            let pool = if net.addr().is_ipv4() { &ip.ipv4_pool } else { &ip.ipv6_pool };
            named.push((net.addr(), pool.clone().filter(|pool| !pool.is_empty())));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spiderpools_endpoints_are_read() {
        let endpoint: SpiderEndpoint = serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint", "metadata": {"name": "web-0"},
            "status": {"current": {"uid": "u", "node": "n", "ips": [{
                "interface": "eth0", "ipv4": "10.0.0.1/24", "ipv4Pool": "a", "ipv6": "fd00::1/64", "ipv6Pool": "",
                "vlan": 0, "cleanGateway": false
            }]}, "ownerControllerType": "StatefulSet", "ownerControllerName": "web"}
        }))
        .unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(named(&endpoint), [(ip("10.0.0.1"), Some("a".to_owned())), (ip("fd00::1"), None)]);
    }
}
