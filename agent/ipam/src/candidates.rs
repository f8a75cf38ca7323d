//! The addresses of a pool that an ADD tries, in their order. Pure: [`crate::allocator`] asks the API server for each.

use std::{collections::HashSet, net::IpAddr};

use holdfast_api::claim::{ClaimState, IPClaim};
use holdfast_core::{
    allocate,
    id::PodName,
    pool::{AddressSet, Pool},
};

use crate::pool_cache::{CachedPool, PoolCache};

/// The number of candidates from the cache that are tried before the pool's claims are listed. Each miss costs a round
/// trip; the list costs as much as the pool is full.
const FROM_CACHE: usize = 8;
/// The number of addresses free in a fresh list that are tried, while other nodes acquire them at the same time.
const FROM_CLAIMS: usize = 64;
/// The number of holders that an error names.
const NAMED_HOLDERS: usize = 5;

/// The choice of candidates for one pod.
pub(crate) struct Candidates<'a> {
    pod: &'a PodName,
    pools: &'a PoolCache,
    /// Addresses of the pod's other interfaces: their claims are the pod's own, yet they are in use.
    on_other_interfaces: HashSet<IpAddr>,
}

impl<'a> Candidates<'a> {
    /// Returns the choice for `pod`, which has `on_other_interfaces` already.
    pub(crate) fn new(pod: &'a PodName, pools: &'a PoolCache, on_other_interfaces: HashSet<IpAddr>) -> Self {
        Self { pod, pools, on_other_interfaces }
    }

    /// Returns true where another interface of the pod has the address.
    pub(crate) fn is_on_another_interface(&self, address: IpAddr) -> bool {
        self.on_other_interfaces.contains(&address)
    }

    /// Returns the addresses that are probably free: those that neither the pool's status nor `recently_used` shows with
    /// another endpoint.
    pub(crate) fn select_from_cache(
        &self,
        cached: &CachedPool,
        addresses: &AddressSet,
        recently_used: &HashSet<IpAddr>,
    ) -> Vec<IpAddr> {
        let pod = self.pod.to_string();
        let shown = |address| cached.in_use.get(&address).is_some_and(|holder| *holder != pod);
        self.first_free(addresses, |address| shown(address) || recently_used.contains(&address), FROM_CACHE)
    }

    /// Returns the addresses that have no claim of another endpoint in a fresh list.
    pub(crate) fn select_from_claims(&self, addresses: &AddressSet, claims: &[IPClaim]) -> Vec<IpAddr> {
        let others = claims.iter().filter(|claim| !claim.belongs_to(self.pod));
        let claimed: HashSet<_> = others.map(|claim| claim.spec.address).collect();
        self.first_free(addresses, |address| claimed.contains(&address), FROM_CLAIMS)
    }

    /// Returns the released claims whose cooldown may be cut short, the one released first at the front.
    pub(crate) fn reclaimable<'c>(&self, addresses: &AddressSet, claims: &'c [IPClaim]) -> Vec<&'c IPClaim> {
        let is_reclaimable = |claim: &&IPClaim| {
            let address = claim.spec.address;
            claim.spec.state == ClaimState::Released && addresses.contains(address) && self.is_assignable(address)
        };
        let mut released: Vec<_> = claims.iter().filter(is_reclaimable).collect();
        released.sort_by_key(|claim| claim.spec.released_at);
        released
    }

    fn first_free(&self, addresses: &AddressSet, is_taken: impl Fn(IpAddr) -> bool, count: usize) -> Vec<IpAddr> {
        let is_taken = |address| is_taken(address) || !self.is_assignable(address);
        allocate::proposals(addresses, self.pod, is_taken).take(count).collect()
    }

    /// Returns true where neither a reservation nor another interface of the pod keeps it from the address.
    fn is_assignable(&self, address: IpAddr) -> bool {
        !self.is_on_another_interface(address) && !self.pools.is_reserved(address)
    }
}

/// Returns the sentence on a pool without a free address: its size and some of the holders.
pub(crate) fn describe_exhausted(name: &str, pool: &Pool, claims: &[IPClaim]) -> String {
    let size = pool.addresses.len();
    if size == 0 {
        return format!("pool {name} is empty: spec.ips less spec.excludeIPs and the gateway leaves no address");
    }
    let held: Vec<_> = claims.iter().filter(|claim| claim.spec.state == ClaimState::Held).collect();
    let named: Vec<_> = held.iter().take(NAMED_HOLDERS).map(|claim| claim.spec.endpoint.as_str()).collect();
    let more = held.len().saturating_sub(NAMED_HOLDERS);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("pool {name} is exhausted: its {size} addresses are held by {}{more}, or reserved", named.join(", "))
}

#[cfg(test)]
mod tests;
