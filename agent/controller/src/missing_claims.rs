//! Missing claims: addresses that an endpoint lists and whose claim is not the endpoint's. The claim was deleted, an older
//! backup was restored, or another IPAM still allocates. Without its claim, a living pod's address would be allocated
//! again.
//!
//! The caches find a missing claim, a live read confirms it, and then it is created. Where the claim is another
//! endpoint's, an event reports that.

use std::{net::IpAddr, time::Duration};

use holdfast_api::{
    claim::{NO_POOL, name_of},
    endpoint::SpiderEndpoint,
    store::StoreError,
};
use holdfast_core::{
    collect::{FirstSeen, Reason},
    id::PodName,
};
use kube::{Resource, ResourceExt};

use crate::{assessment::Assessment, context::Context, delay_queue::Requeue, index::Index, reflectors::Reflectors};

/// The time for which a claim must be missing: the watch of endpoints may be ahead of the watch of claims.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// An endpoint, and the addresses that it lists without a claim of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnclaimedAddresses {
    endpoint: PodName,
    addresses: Vec<IpAddr>,
}

/// The endpoints with missing claims, and since when they miss the same ones.
#[derive(Debug, Default)]
pub(crate) struct MissingClaims {
    first_seen: FirstSeen<PodName, Vec<MissingClaim>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MissingClaim {
    address: IpAddr,
    /// The endpoint whose claim it is instead.
    claimed_for: Option<PodName>,
}

impl MissingClaims {
    /// Looks for missing claims of an endpoint in the caches.
    pub(crate) fn assess(
        &mut self,
        name: &PodName,
        index: &Index,
        reflectors: &Reflectors,
        now: Duration,
    ) -> Assessment<UnclaimedAddresses> {
        let missing = missing_claims(name, index, reflectors);
        if missing.is_empty() {
            self.first_seen.forget(name);
            return Assessment::Keep;
        }
        let addresses = missing.iter().map(|claim| claim.address).collect();
        match SETTLE_TIME.checked_sub(self.first_seen.seen_for(name.clone(), missing, now)) {
            Some(left) if !left.is_zero() => Assessment::RequeueAfter(left),
            _ => Assessment::Act(UnclaimedAddresses { endpoint: name.clone(), addresses }),
        }
    }
}

fn missing_claims(name: &PodName, index: &Index, reflectors: &Reflectors) -> Vec<MissingClaim> {
    // An endpoint that is neither a pod's nor sticky is collected, and its addresses with it.
    let is_kept = |endpoint: &SpiderEndpoint| reflectors.pod(name).is_some() || endpoint.record().is_sticky();
    let Some(endpoint) = reflectors.endpoint(name).filter(|endpoint| is_kept(endpoint)) else { return Vec::new() };
    let mut missing = Vec::new();
    for address in endpoint.addresses() {
        let claimed_for = index.claim(&name_of(address)).and_then(|claim| claim.endpoint.clone());
        if claimed_for.as_ref() != Some(name) {
            missing.push(MissingClaim { address, claimed_for });
        }
    }
    missing
}

/// Creates the claims that are missing by a live read of the endpoint, too.
pub(crate) async fn create(context: &Context, missing: Vec<UnclaimedAddresses>) {
    let each = context.for_each(missing, |missing| async move {
        if let Err(error) = create_for_endpoint(context, &missing).await {
            context.outcomes.claim_failed(&missing.endpoint, &error);
            context.requeue(Requeue::Endpoint(missing.endpoint));
        }
    });
    each.await;
}

async fn create_for_endpoint(context: &Context, missing: &UnclaimedAddresses) -> Result<(), StoreError> {
    let Some(endpoint) = context.store.endpoint(&missing.endpoint).await? else { return Ok(()) };
    for (address, pool) in addresses_with_pools(&endpoint, &context.reflectors) {
        if missing.addresses.contains(&address) {
            create_claim(context, &endpoint, address, &pool, Reason::ClaimMissing).await?;
        }
    }
    Ok(())
}

/// Creates the claim of an address for the endpoint that lists it. A claim of that endpoint stays as it is; one of another
/// is reported.
pub(crate) async fn create_claim(
    context: &Context,
    endpoint: &SpiderEndpoint,
    address: IpAddr,
    pool: &str,
    reason: Reason,
) -> Result<(), StoreError> {
    let (store, name) = (&context.store, endpoint.pod());
    match store.create_claim(address, pool, &name).await {
        Ok(()) => {
            context.outcomes.claim_created(&name, endpoint.object_ref(&()), reason, address);
            return Ok(());
        }
        Err(error) if error.is_conflict() => {}
        Err(error) => return Err(error),
    }
    // A claim of this endpoint that is marked as released is unmarked by the collection of claims.
    let foreign = store.claim(address).await?.filter(|claim| !claim.belongs_to(&name));
    if let Some(claim) = foreign
        && store.endpoint(&name).await?.is_some_and(|endpoint| endpoint.lists(address))
    {
        context.outcomes.address_taken(&name, endpoint.object_ref(&()), address, &claim.spec.endpoint);
    }
    Ok(())
}

/// Returns the addresses that an endpoint lists, with their pools. For a record that names no pool, it is the first one
/// that contains the address.
pub(crate) fn addresses_with_pools(endpoint: &SpiderEndpoint, reflectors: &Reflectors) -> Vec<(IpAddr, String)> {
    let named = addresses_with_named_pools(endpoint).into_iter();
    named.map(|(address, pool)| (address, pool.unwrap_or_else(|| pool_of(address, reflectors)))).collect()
}

fn pool_of(address: IpAddr, reflectors: &Reflectors) -> String {
    let pools = reflectors.pools.state();
    let containing = pools.iter().filter(|pool| {
        let parsed = pool.spec.parse();
        parsed.is_ok_and(|pool| pool.addresses.contains(address))
    });
    containing.map(|pool| pool.name_any()).min().unwrap_or_else(|| NO_POOL.to_owned())
}

fn addresses_with_named_pools(endpoint: &SpiderEndpoint) -> Vec<(IpAddr, Option<String>)> {
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
    use holdfast_api::{claim::IPClaim, ippool::SpiderIPPool};
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint() -> SpiderEndpoint {
        serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
            "metadata": {"name": "web-0", "namespace": "d"},
            "status": {"current": {"uid": "u", "node": "n", "ips": [{
                "interface": "eth0", "ipv4": "10.0.0.1/24", "ipv4Pool": "a", "ipv6": "fd00::1/64", "ipv6Pool": "",
                "vlan": 0, "cleanGateway": false
            }]}, "ownerControllerType": "StatefulSet", "ownerControllerName": "web"}
        }))
        .unwrap()
    }

    #[test]
    fn spiderpools_endpoints_are_read() {
        let expected = [(ip("10.0.0.1"), Some("a".to_owned())), (ip("fd00::1"), None)];
        assert_eq!(addresses_with_named_pools(&endpoint()), expected);
    }

    #[test]
    fn an_address_without_a_named_pool_belongs_to_the_first_pool_that_contains_it() {
        let (reflectors, mut writers) = Reflectors::new();
        assert_eq!(addresses_with_pools(&endpoint(), &reflectors)[1], (ip("fd00::1"), NO_POOL.to_owned()));
        for (name, ips) in [("c", "fd00::1"), ("b", "fd00::1-fd00::9"), ("a", "fd00::2")] {
            let spec = serde_json::from_value(json!({"subnet": "fd00::/64", "ips": [ips]})).unwrap();
            writers.pools.apply_watcher_event(&Event::Apply(SpiderIPPool::new(name, spec)));
        }
        assert_eq!(addresses_with_pools(&endpoint(), &reflectors)[1], (ip("fd00::1"), "b".to_owned()));
    }

    #[test]
    fn a_claim_is_missing_once_it_has_been_missing_for_a_while() {
        let (reflectors, mut writers) = Reflectors::new();
        let (mut index, mut missing, pod) = (Index::default(), MissingClaims::default(), PodName::new("d", "web-0"));
        let ms = Duration::from_millis;
        writers.endpoints.apply_watcher_event(&Event::Apply(endpoint()));
        let own = IPClaim::held(ip("10.0.0.1"), "a", &pod);
        index.set_claim(&name_of(ip("10.0.0.1")), Some(&own));
        assert_eq!(missing.assess(&pod, &index, &reflectors, ms(0)), Assessment::RequeueAfter(ms(500)));
        assert_eq!(missing.assess(&pod, &index, &reflectors, ms(400)), Assessment::RequeueAfter(ms(100)));
        // Another endpoint claims it in between: that begins a new wait.
        let other = IPClaim::held(ip("fd00::1"), "b", &PodName::new("d", "other"));
        index.set_claim(&name_of(ip("fd00::1")), Some(&other));
        assert_eq!(missing.assess(&pod, &index, &reflectors, ms(500)), Assessment::RequeueAfter(ms(500)));
        let due = UnclaimedAddresses { endpoint: pod.clone(), addresses: vec![ip("fd00::1")] };
        assert_eq!(missing.assess(&pod, &index, &reflectors, ms(1000)), Assessment::Act(due));
        index.set_claim(&name_of(ip("fd00::1")), Some(&IPClaim::held(ip("fd00::1"), "b", &pod)));
        assert_eq!(missing.assess(&pod, &index, &reflectors, ms(1100)), Assessment::Keep);
    }

    #[test]
    fn an_endpoint_without_a_pod_that_is_not_sticky_misses_nothing() {
        let (reflectors, mut writers) = Reflectors::new();
        let mut stateless = endpoint();
        stateless.status.as_mut().unwrap().owner_controller_type = "Deployment".into();
        writers.endpoints.apply_watcher_event(&Event::Apply(stateless));
        let (index, mut missing, pod) = (Index::default(), MissingClaims::default(), PodName::new("d", "web-0"));
        assert_eq!(missing.assess(&pod, &index, &reflectors, Duration::ZERO), Assessment::Keep);
        let living = serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "web-0"}})).unwrap();
        writers.pods.apply_watcher_event(&Event::Apply(living));
        assert_eq!(missing.assess(&pod, &index, &reflectors, Duration::ZERO), Assessment::RequeueAfter(SETTLE_TIME));
    }
}
