//! Acquires free addresses: proposes candidates from the cache, then from a fresh list of claims, and asks the API server
//! for each.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Instant};

use futures::future::join_all;
use holdfast_api::{
    claim::{ClaimState, IPClaim},
    store::{AcquireOutcome, ReleaseOutcome},
};
use holdfast_core::{
    id::PodName,
    pool::{Family, Pool},
};

use crate::{
    assigned_address::AssignedAddress,
    bind_spec::BindSpec,
    candidates::{Candidates, describe_exhausted},
    error::{IpamError, Shortage},
    ipam::{ATTEMPTS, Ipam},
    pool_cache::CachedPool,
};

/// The end of the search for one family's address: the address, or the pools that have none left.
type Search<T> = Result<Result<T, Shortage>, IpamError>;

/// One ADD's search for addresses.
pub(crate) struct Allocator<'a> {
    ipam: &'a Ipam,
    spec: &'a BindSpec<'a>,
    pod: &'a PodName,
    candidates: Candidates<'a>,
}

impl<'a> Allocator<'a> {
    /// Returns the search for `spec`'s interface. The addresses of the pod's other interfaces are not candidates.
    pub(crate) fn new(ipam: &'a Ipam, spec: &'a BindSpec<'a>, on_other_interfaces: HashSet<IpAddr>) -> Self {
        let pod = &spec.request.pod;
        Self { ipam, spec, pod, candidates: Candidates::new(pod, &ipam.pools, on_other_interfaces) }
    }

    /// Acquires an address of each of `families`. Errors that need no write come first. Each family is then searched to
    /// its end, so that no write is cut off half-way and the error names every family that has no address left.
    pub(crate) async fn allocate(&self, families: &[Family]) -> Result<Vec<AssignedAddress>, IpamError> {
        let eligible = self.spec.eligible_pools(&self.ipam.pools, families)?;
        let outcomes = join_all(eligible.iter().map(|(family, pools)| self.allocate_family(*family, pools))).await;
        let (mut acquired, mut shortages, mut failed) = (Vec::new(), Vec::new(), None);
        for outcome in outcomes {
            match outcome {
                Ok(Ok(assigned)) => acquired.extend(assigned),
                Ok(Err(shortage)) => shortages.push(shortage),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if failed.is_none() && shortages.is_empty() {
            return Ok(acquired);
        }
        // A pod that waits for one family must not occupy an address of another.
        let acquired: Vec<_> = acquired.iter().map(AssignedAddress::address).collect();
        self.ipam.release_addresses(self.pod, &acquired).await;
        let (pod, interface) = (self.pod.clone(), self.spec.request.interface.clone());
        Err(failed.unwrap_or(IpamError::Exhausted { pod, interface, shortages }))
    }

    /// Acquires an address of `family` from the first of `pools` that has one. Returns none where the pools' source leaves
    /// the family out.
    async fn allocate_family(&self, family: Family, pools: &[Arc<CachedPool>]) -> Search<Option<AssignedAddress>> {
        if let Some(address) = self.spec.static_ip(family)
            && let Some(assigned) = self.acquire_static(address, pools).await?
        {
            return Ok(Ok(Some(assigned)));
        }
        let mut exhausted = Vec::new();
        for cached in pools {
            let Ok(pool) = &cached.parsed else { continue };
            match self.allocate_from(cached, pool).await? {
                Ok(address) => return Ok(Ok(Some(AssignedAddress::new(pool.with_prefix(address), &cached.name)))),
                Err(description) => exhausted.push(description),
            }
        }
        Ok(if exhausted.is_empty() { Ok(None) } else { Err(Shortage { family, pools: exhausted }) })
    }

    /// Acquires the static address of the pod's ordinal. Returns none where it is for another of the pod's interfaces.
    async fn acquire_static(
        &self,
        address: IpAddr,
        pools: &[Arc<CachedPool>],
    ) -> Result<Option<AssignedAddress>, IpamError> {
        let unavailable = |why: String| IpamError::Static { pod: self.pod.clone(), address, why };
        let Some((cached, pool)) = pools.iter().find_map(|cached| Some((cached, cached.pool_of(address)?))) else {
            let all = self.ipam.pools.all();
            if self.spec.names_pools_per_interface() && all.values().any(|cached| cached.pool_of(address).is_some()) {
                return Ok(None);
            }
            let names: Vec<_> = pools.iter().map(|cached| cached.name.as_str()).collect();
            return Err(unavailable(format!("none of the pools that it may use gives it out: {}", names.join(", "))));
        };
        if self.candidates.is_on_another_interface(address) {
            if self.spec.names_pools_per_interface() {
                return Ok(None);
            }
            return Err(unavailable("another of the pod's interfaces has it".to_owned()));
        }
        if self.ipam.pools.is_reserved(address) {
            return Err(unavailable("it is reserved by a SpiderReservedIP".to_owned()));
        }
        let store = &self.ipam.store;
        let acquired = || Ok(Some(AssignedAddress::new(pool.with_prefix(address), &cached.name)));
        let holder = match store.acquire(address, &cached.name, self.pod).await? {
            AcquireOutcome::Acquired => return acquired(),
            AcquireOutcome::HeldBy(holder) => holder,
        };
        // The cooldown of a released address protects pods that may get any address; it does not delay the pod for which
        // the address is fixed.
        if let Some(claim) = store.claim(address).await?.filter(|claim| claim.spec.state == ClaimState::Released)
            && store.finish_release(&claim).await? == ReleaseOutcome::Deleted
            && matches!(store.acquire(address, &cached.name, self.pod).await?, AcquireOutcome::Acquired)
        {
            return acquired();
        }
        Err(unavailable(format!("{holder} has it")))
    }

    /// Acquires an address of one pool. Returns a sentence on its holders where it has none left.
    async fn allocate_from(&self, cached: &CachedPool, pool: &Pool) -> Result<Result<IpAddr, String>, IpamError> {
        let recently_used = self.ipam.recently_used.by_others(&self.pod.to_string(), Instant::now());
        let from_cache = self.candidates.select_from_cache(cached, &pool.addresses, &recently_used);
        if let Some(address) = self.acquire_first(&cached.name, &from_cache).await? {
            return Ok(Ok(address));
        }
        for _ in 0..ATTEMPTS {
            let claims = self.ipam.store.pool_claims(&cached.name).await?;
            let free = self.candidates.select_from_claims(&pool.addresses, &claims);
            if let Some(address) = self.acquire_first(&cached.name, &free).await? {
                return Ok(Ok(address));
            }
            if let Some(address) = self.reclaim_released(cached, pool, &claims).await? {
                return Ok(Ok(address));
            }
            if free.is_empty() {
                return Ok(Err(describe_exhausted(&cached.name, pool, &claims)));
            }
        }
        // Others acquired every address that a list showed as free, each time. That does not prove that none is left.
        Err(IpamError::Contended(self.pod.clone()))
    }

    /// Acquires the first of `addresses` that no other endpoint holds. Returns none where all are held.
    async fn acquire_first(&self, pool: &str, addresses: &[IpAddr]) -> Result<Option<IpAddr>, IpamError> {
        let recently_used = &self.ipam.recently_used;
        for &address in addresses {
            match self.ipam.store.acquire(address, pool, self.pod).await? {
                AcquireOutcome::Acquired => {
                    recently_used.record(address, self.pod.to_string(), Instant::now());
                    return Ok(Some(address));
                }
                AcquireOutcome::HeldBy(holder) => {
                    tracing::debug!(pod = %self.pod, %address, holder, "the address is held by another endpoint; trying the next");
                    recently_used.record(address, holder, Instant::now());
                }
            }
        }
        Ok(None)
    }

    /// Acquires a released address before its cooldown ends, the one released first. For a pool that has no other left.
    async fn reclaim_released(
        &self,
        cached: &CachedPool,
        pool: &Pool,
        claims: &[IPClaim],
    ) -> Result<Option<IpAddr>, IpamError> {
        for claim in self.candidates.reclaimable(&pool.addresses, claims) {
            if self.ipam.store.finish_release(claim).await? == ReleaseOutcome::Deleted
                && let Some(address) = self.acquire_first(&cached.name, &[claim.spec.address]).await?
            {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}
