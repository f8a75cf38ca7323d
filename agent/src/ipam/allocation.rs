//! Taking a free address: proposals from what is known, the API server's word on each.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use holdfast_api::{
    claim::{ClaimState, IPClaim},
    store::{Claimed, Finished},
};
use holdfast_core::{
    allocate,
    id::PodName,
    pool::{Family, Pool},
};

use super::{
    Ipam, IpamError,
    error::Shortage,
    plan::{Assigned, Plan},
};
use crate::pools::KnownPool;

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
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What others than `pod` use. Its own last try, which something cut off, is the best proposal for the next.
    fn of_others(&self, pod: &PodName) -> HashSet<IpAddr> {
        let mut recent = self.lock();
        recent.retain(|_, (seen, _)| seen.elapsed() < RECENTLY);
        let pod = pod.to_string();
        recent.iter().filter(|(_, (_, endpoint))| *endpoint != pod).map(|(address, _)| *address).collect()
    }

    fn saw(&self, address: IpAddr, endpoint: String) {
        self.lock().insert(address, (Instant::now(), endpoint));
    }

    pub(super) fn forget(&self, addresses: &[IpAddr]) {
        self.lock().retain(|address, _| !addresses.contains(address));
    }
}

impl Ipam {
    /// A free address for each of `families`. Each is asked for to its end: no write is cut off half-way, and the error
    /// names every family that has none left.
    pub(super) async fn allocate_each(
        &self,
        plan: &Plan<'_>,
        families: impl IntoIterator<Item = Family>,
    ) -> Result<Vec<Assigned>, IpamError> {
        let outcomes = join_all(families.into_iter().map(|family| self.allocate(plan, family))).await;
        let (mut taken, mut shortages) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            match outcome? {
                Ok(assigned) => taken.extend(assigned),
                Err(shortage) => shortages.push(shortage),
            }
        }
        if shortages.is_empty() {
            return Ok(taken);
        }
        let (pod, interface) = (plan.request.pod.clone(), plan.request.interface.clone());
        Err(IpamError::Exhausted { pod, interface, shortages })
    }

    /// A free address of `family` from the first of the plan's pools that has one. None: the plan leaves the family out.
    async fn allocate(
        &self,
        plan: &Plan<'_>,
        family: Family,
    ) -> Result<Result<Option<Assigned>, Shortage>, IpamError> {
        let candidates = plan.candidates(&self.pools, family)?;
        if let Some(address) = plan.fixed(family)
            && let Some(assigned) = self.take_fixed(plan, address, &candidates).await?
        {
            return Ok(Ok(Some(assigned)));
        }
        let mut exhausted = Vec::new();
        for known in candidates {
            let Ok(pool) = &known.parsed else { continue };
            match self.take_from(plan, &known, pool).await? {
                Ok(address) => return Ok(Ok(Some(Assigned::new(pool.with_prefix(address), &known.name)))),
                Err(holders) => exhausted.push(holders),
            }
        }
        Ok(if exhausted.is_empty() { Ok(None) } else { Err(Shortage { family, pools: exhausted }) })
    }

    /// The address that the pod's author fixed for it. None: it is for another of the pod's interfaces.
    async fn take_fixed(
        &self,
        plan: &Plan<'_>,
        address: IpAddr,
        candidates: &[Arc<KnownPool>],
    ) -> Result<Option<Assigned>, IpamError> {
        let pod = &plan.request.pod;
        let refused = |why: String| IpamError::Static { pod: pod.clone(), address, why };
        let gives = |known: &&Arc<KnownPool>| known.parsed.as_ref().is_ok_and(|pool| pool.addresses.contains(address));
        let Some((known, pool)) =
            candidates.iter().find(gives).and_then(|known| Some((known, known.parsed.as_ref().ok()?)))
        else {
            if plan.is_one_of_many() && self.pools.all().values().any(|known| gives(&known)) {
                return Ok(None);
            }
            let names: Vec<_> = candidates.iter().map(|known| known.name.as_str()).collect();
            return Err(refused(format!("none of the pools that it may use gives it out: {}", names.join(", "))));
        };
        if self.pools.is_reserved(address) {
            return Err(refused("it is reserved by a SpiderReservedIP".to_owned()));
        }
        let ours = || Ok(Some(Assigned::new(pool.with_prefix(address), &known.name)));
        let holder = match self.store.take(address, &known.name, pod).await? {
            Claimed::Ours => return ours(),
            Claimed::Theirs(holder) => holder,
        };
        // Its former holder has left it; the rest is for those who do not care which address they get.
        if let Some(claim) = self.store.claim(address).await?.filter(|claim| claim.spec.state == ClaimState::Released)
            && self.store.finish_release(&claim).await? == Finished::Deleted
            && matches!(self.store.take(address, &known.name, pod).await?, Claimed::Ours)
        {
            return ours();
        }
        Err(refused(format!("{holder} has it")))
    }

    /// An address of one pool, or a sentence on what holds it.
    async fn take_from(
        &self,
        plan: &Plan<'_>,
        known: &KnownPool,
        pool: &Pool,
    ) -> Result<Result<IpAddr, String>, IpamError> {
        let recent = self.recent.of_others(&plan.request.pod);
        let taken =
            |address| known.in_use.contains(&address) || recent.contains(&address) || self.pools.is_reserved(address);
        let guesses: Vec<_> = allocate::proposals(&pool.addresses, &plan.request.pod, taken).take(GUESSES).collect();
        if let Some(address) = self.first_of(plan, &known.name, guesses).await? {
            return Ok(Ok(address));
        }
        let claims = self.store.pool_claims(&known.name).await?;
        let claimed: HashSet<_> = claims
            .iter()
            .filter(|claim| !claim.belongs_to(&plan.request.pod))
            .map(|claim| claim.spec.address)
            .collect();
        let taken = |address| claimed.contains(&address) || self.pools.is_reserved(address);
        let free: Vec<_> = allocate::proposals(&pool.addresses, &plan.request.pod, taken).take(CHOICES).collect();
        if let Some(address) = self.first_of(plan, &known.name, free).await? {
            return Ok(Ok(address));
        }
        if let Some(address) = self.end_a_rest(plan, known, pool, &claims).await? {
            return Ok(Ok(address));
        }
        Ok(Err(describe(known, pool, &claims)))
    }

    /// The first of `addresses` whose claim can be had.
    async fn first_of(&self, plan: &Plan<'_>, pool: &str, addresses: Vec<IpAddr>) -> Result<Option<IpAddr>, IpamError> {
        for address in addresses {
            match self.store.take(address, pool, &plan.request.pod).await? {
                Claimed::Ours => {
                    self.recent.saw(address, plan.request.pod.to_string());
                    return Ok(Some(address));
                }
                Claimed::Theirs(holder) => {
                    tracing::debug!(%address, holder, "taken by another; trying the next");
                    self.recent.saw(address, holder);
                }
            }
        }
        Ok(None)
    }

    /// Nothing else is free: the released address that has rested longest is taken before its rest is over.
    async fn end_a_rest(
        &self,
        plan: &Plan<'_>,
        known: &KnownPool,
        pool: &Pool,
        claims: &[IPClaim],
    ) -> Result<Option<IpAddr>, IpamError> {
        let usable = |claim: &&IPClaim| {
            let address = claim.spec.address;
            claim.spec.state == ClaimState::Released
                && pool.addresses.contains(address)
                && !self.pools.is_reserved(address)
        };
        let mut resting: Vec<_> = claims.iter().filter(usable).collect();
        resting.sort_by_key(|claim| claim.spec.released_at);
        for claim in resting {
            if self.store.finish_release(claim).await? == Finished::Deleted
                && let Some(address) = self.first_of(plan, &known.name, vec![claim.spec.address]).await?
            {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}

fn describe(known: &KnownPool, pool: &Pool, claims: &[IPClaim]) -> String {
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
