//! Taking free addresses: proposals from what is known, the API server's word on each.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use holdfast_api::{
    claim::{ClaimState, IPClaim},
    endpoint::SpiderEndpoint,
    store::{AcquireOutcome, ReleaseOutcome},
};
use holdfast_core::{
    allocate,
    id::PodName,
    pool::{AddressSet, Family, Pool},
};
use parking_lot::Mutex;

use super::{
    ATTEMPTS, Ipam, IpamError,
    bind_spec::{Assigned, BindSpec},
    error::Shortage,
};
use crate::pools::CachedPool;

/// How many proposals are tried before the pool's claims are listed. Each miss costs a round trip; the list costs as
/// much as the pool is full.
const GUESSES: usize = 8;
/// How many addresses that a fresh list shows as free are tried, while other nodes take them at the same time.
const CHOICES: usize = 64;
/// How long an address that was seen in use is not proposed.
const RECENTLY: Duration = Duration::from_secs(30);
/// How many holders an error names.
const NAMED_HOLDERS: usize = 5;

/// Addresses that this agent saw in use a moment ago, which no view may show yet, and for which endpoint.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashMap<IpAddr, (Instant, String)>>);

impl Recent {
    /// What others than `pod` use. Its own last try, which something cut off, is the best proposal for the next.
    fn of_others(&self, pod: &str) -> HashSet<IpAddr> {
        let mut recent = self.0.lock();
        recent.retain(|_, (seen, _)| seen.elapsed() < RECENTLY);
        recent.iter().filter(|(_, (_, endpoint))| endpoint != pod).map(|(address, _)| *address).collect()
    }

    fn saw(&self, address: IpAddr, endpoint: String) {
        self.0.lock().insert(address, (Instant::now(), endpoint));
    }

    pub(super) fn forget(&self, addresses: &[IpAddr]) {
        self.0.lock().retain(|address, _| !addresses.contains(address));
    }
}

/// What the search for one address ended with.
type Search<T> = Result<Result<T, Shortage>, IpamError>;

/// One ADD's search for addresses.
pub(super) struct Allocator<'a> {
    ipam: &'a Ipam,
    spec: &'a BindSpec<'a>,
    pod: &'a PodName,
    /// What the pod has on its other interfaces: its own claims, and yet not free.
    elsewhere: HashSet<IpAddr>,
}

impl<'a> Allocator<'a> {
    pub(super) fn new(ipam: &'a Ipam, spec: &'a BindSpec<'a>, before: Option<&SpiderEndpoint>) -> Self {
        Self { ipam, spec, pod: &spec.request.pod, elsewhere: spec.elsewhere(before) }
    }

    /// A free address for each of `families`. All that can be wrong without a write is found first; then each family is
    /// searched to the end, so that no write is cut off half-way and the error names every family that has none left.
    pub(super) async fn each(&self, families: Vec<Family>) -> Result<Vec<Assigned>, IpamError> {
        let candidates = self.spec.candidates(&self.ipam.pools, &families)?;
        let outcomes = join_all(candidates.iter().map(|(family, pools)| self.one(*family, pools))).await;
        let (mut taken, mut shortages, mut failed) = (Vec::new(), Vec::new(), None);
        for outcome in outcomes {
            match outcome {
                Ok(Ok(assigned)) => taken.extend(assigned),
                Ok(Err(shortage)) => shortages.push(shortage),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if failed.is_none() && shortages.is_empty() {
            return Ok(taken);
        }
        // A pod that waits for one family must not sit on an address of another.
        let taken: Vec<_> = taken.iter().map(Assigned::address).collect();
        self.ipam.release_addresses(self.pod, &taken).await;
        let (pod, interface) = (self.pod.clone(), self.spec.request.interface.clone());
        Err(failed.unwrap_or(IpamError::Exhausted { pod, interface, shortages }))
    }

    /// A free address of `family` from the first of `pools` that has one. None: the spec leaves the family out.
    async fn one(&self, family: Family, pools: &[Arc<CachedPool>]) -> Search<Option<Assigned>> {
        if let Some(address) = self.spec.fixed(family)
            && let Some(assigned) = self.take_fixed(address, pools).await?
        {
            return Ok(Ok(Some(assigned)));
        }
        let mut exhausted = Vec::new();
        for known in pools {
            let Ok(pool) = &known.parsed else { continue };
            match self.take_from(known, pool).await? {
                Ok(address) => return Ok(Ok(Some(Assigned::new(pool.with_prefix(address), &known.name)))),
                Err(holders) => exhausted.push(holders),
            }
        }
        Ok(if exhausted.is_empty() { Ok(None) } else { Err(Shortage { family, pools: exhausted }) })
    }

    /// Whether an address may be given out as far as this pod is concerned, whoever has it now.
    fn may_have(&self, address: IpAddr) -> bool {
        !self.elsewhere.contains(&address) && !self.ipam.pools.is_reserved(address)
    }

    /// The address that the pod's author fixed for it. None: it is for another of the pod's interfaces.
    async fn take_fixed(&self, address: IpAddr, pools: &[Arc<CachedPool>]) -> Result<Option<Assigned>, IpamError> {
        let refused = |why: String| IpamError::Static { pod: self.pod.clone(), address, why };
        let gives = |known: &&Arc<CachedPool>| known.parsed.as_ref().is_ok_and(|pool| pool.addresses.contains(address));
        let Some((known, pool)) = pools.iter().find(gives).and_then(|known| Some((known, known.parsed.as_ref().ok()?)))
        else {
            if self.spec.is_one_of_many() && self.ipam.pools.all().values().any(|known| gives(&known)) {
                return Ok(None);
            }
            let names: Vec<_> = pools.iter().map(|known| known.name.as_str()).collect();
            return Err(refused(format!("none of the pools that it may use gives it out: {}", names.join(", "))));
        };
        if self.elsewhere.contains(&address) {
            if self.spec.is_one_of_many() {
                return Ok(None);
            }
            return Err(refused("another of the pod's interfaces has it".to_owned()));
        }
        if self.ipam.pools.is_reserved(address) {
            return Err(refused("it is reserved by a SpiderReservedIP".to_owned()));
        }
        let store = &self.ipam.store;
        let ours = || Ok(Some(Assigned::new(pool.with_prefix(address), &known.name)));
        let holder = match store.acquire(address, &known.name, self.pod).await? {
            AcquireOutcome::Acquired => return ours(),
            AcquireOutcome::HeldBy(holder) => holder,
        };
        // Its former holder has left it; the rest is for those who do not care which address they get.
        if let Some(claim) = store.claim(address).await?.filter(|claim| claim.spec.state == ClaimState::Released)
            && store.finish_release(&claim).await? == ReleaseOutcome::Deleted
            && matches!(store.acquire(address, &known.name, self.pod).await?, AcquireOutcome::Acquired)
        {
            return ours();
        }
        Err(refused(format!("{holder} has it")))
    }

    /// An address of one pool, or a sentence on what holds it.
    async fn take_from(&self, known: &CachedPool, pool: &Pool) -> Result<Result<IpAddr, String>, IpamError> {
        if let Some(address) = self.first_of(&known.name, self.candidates_from_cache(known, &pool.addresses)).await? {
            return Ok(Ok(address));
        }
        for _ in 0..ATTEMPTS {
            let claims = self.ipam.store.pool_claims(&known.name).await?;
            let claimed: HashSet<_> =
                claims.iter().filter(|claim| !claim.belongs_to(self.pod)).map(|claim| claim.spec.address).collect();
            let free = self.proposals(&pool.addresses, |address| claimed.contains(&address), CHOICES);
            let none_is_free = free.is_empty();
            if let Some(address) = self.first_of(&known.name, free).await? {
                return Ok(Ok(address));
            }
            if let Some(address) = self.reclaim_released(known, pool, &claims).await? {
                return Ok(Ok(address));
            }
            if none_is_free {
                return Ok(Err(describe(known, pool, &claims)));
            }
        }
        // Others took every address that a list showed as free, each time. That is no proof that none is left.
        Err(IpamError::Contended(self.pod.clone()))
    }

    /// What is likely to be free, as far as this agent knows without asking.
    fn candidates_from_cache(&self, known: &CachedPool, addresses: &AddressSet) -> Vec<IpAddr> {
        let pod = self.pod.to_string();
        let recent = self.ipam.recent.of_others(&pod);
        let shown = |address| known.in_use.get(&address).is_some_and(|holder| *holder != pod);
        self.proposals(addresses, |address| shown(address) || recent.contains(&address), GUESSES)
    }

    fn proposals(&self, addresses: &AddressSet, taken: impl Fn(IpAddr) -> bool, count: usize) -> Vec<IpAddr> {
        let taken = |address| taken(address) || !self.may_have(address);
        allocate::proposals(addresses, self.pod, taken).take(count).collect()
    }

    /// The first of `addresses` whose claim can be had.
    async fn first_of(&self, pool: &str, addresses: Vec<IpAddr>) -> Result<Option<IpAddr>, IpamError> {
        let recent = &self.ipam.recent;
        for address in addresses {
            match self.ipam.store.acquire(address, pool, self.pod).await? {
                AcquireOutcome::Acquired => {
                    recent.saw(address, self.pod.to_string());
                    return Ok(Some(address));
                }
                AcquireOutcome::HeldBy(holder) => {
                    tracing::debug!(%address, holder, "taken by another; trying the next");
                    recent.saw(address, holder);
                }
            }
        }
        Ok(None)
    }

    /// Nothing else is free: the released address that has rested longest is taken before its rest is over.
    async fn reclaim_released(
        &self,
        known: &CachedPool,
        pool: &Pool,
        claims: &[IPClaim],
    ) -> Result<Option<IpAddr>, IpamError> {
        let usable = |claim: &&IPClaim| {
            let address = claim.spec.address;
            claim.spec.state == ClaimState::Released && pool.addresses.contains(address) && self.may_have(address)
        };
        let mut resting: Vec<_> = claims.iter().filter(usable).collect();
        resting.sort_by_key(|claim| claim.spec.released_at);
        for claim in resting {
            if self.ipam.store.finish_release(claim).await? == ReleaseOutcome::Deleted
                && let Some(address) = self.first_of(&known.name, vec![claim.spec.address]).await?
            {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}

fn describe(known: &CachedPool, pool: &Pool, claims: &[IPClaim]) -> String {
    let size = pool.addresses.len();
    if size == 0 {
        return format!(
            "pool {} is empty: spec.ips less spec.excludeIPs and the gateway leaves no address",
            known.name
        );
    }
    let held: Vec<_> = claims.iter().filter(|claim| claim.spec.state == ClaimState::Held).collect();
    let named: Vec<_> = held.iter().take(NAMED_HOLDERS).map(|claim| claim.spec.endpoint.as_str()).collect();
    let more = held.len().saturating_sub(NAMED_HOLDERS);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "pool {} is exhausted: its {size} addresses are held by {}{more}, or reserved",
        known.name,
        named.join(", ")
    )
}
