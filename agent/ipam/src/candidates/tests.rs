use holdfast_api::{ippool::SpiderIPPool, reserved::SpiderReservedIP};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

/// A cache with the pool `a` of 10.0.0.1 to 10.0.0.20, of which the status shows `in_use`, and 10.0.0.20 reserved.
fn cache(in_use: &Value) -> PoolCache {
    let spec = json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1-10.0.0.20"]});
    let mut pool = SpiderIPPool::new("a", serde_json::from_value(spec).unwrap());
    pool.status = serde_json::from_value(json!({"allocatedIPs": in_use.to_string()})).unwrap();
    let reserved = serde_json::from_value(json!({"ips": ["10.0.0.20"]})).unwrap();
    let cache = PoolCache::default();
    cache.replace(vec![pool], &[SpiderReservedIP::new("r", reserved)]);
    cache
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn claim(last: u8, endpoint: &str, released_at: Option<i64>) -> IPClaim {
    let (namespace, name) = endpoint.split_once('/').unwrap();
    let mut claim = IPClaim::held(address(last), "a", &PodName::new(namespace, name));
    if let Some(seconds) = released_at {
        claim.spec.state = ClaimState::Released;
        claim.spec.released_at = Some(Timestamp::from_second(seconds).unwrap());
    }
    claim
}

/// Calls `test` with the candidates of pod `d/web-0`, which has 10.0.0.19 on another interface, and the pool.
fn with_candidates(in_use: &Value, test: impl FnOnce(&Candidates<'_>, &CachedPool, &AddressSet)) {
    let (cache, pod) = (cache(in_use), PodName::new("d", "web-0"));
    let cached = cache.get("a").unwrap();
    let addresses = &cached.parsed.as_ref().unwrap().addresses;
    test(&Candidates::new(&pod, &cache, HashSet::from([address(19)])), &cached, addresses);
}

/// The order of all addresses that the pod may get.
fn order(candidates: &Candidates<'_>, addresses: &AddressSet) -> Vec<IpAddr> {
    candidates.select_from_claims(addresses, &[])
}

#[test]
fn candidates_start_at_the_pods_own_place_and_cover_the_pool() {
    with_candidates(&json!({}), |candidates, _, addresses| {
        let all = order(candidates, addresses);
        assert_eq!(all, order(candidates, addresses));
        let unique: HashSet<_> = all.iter().copied().collect();
        assert_eq!((unique.len(), all.len()), (18, 18));
        assert!(!unique.contains(&address(19)), "the pod's other interface has it");
        assert!(!unique.contains(&address(20)), "it is reserved");
    });
}

#[test]
fn the_cache_hides_the_addresses_of_other_endpoints() {
    let in_use = json!({"10.0.0.1": {"pod": "d/web-1"}, "10.0.0.2": {"pod": "d/web-0"}});
    with_candidates(&in_use, |candidates, cached, addresses| {
        let free: HashSet<_> = order(candidates, addresses).into_iter().filter(|free| *free != address(1)).collect();
        let recently_used: HashSet<_> = free.iter().copied().filter(|free| *free > address(4)).collect();
        let found: HashSet<_> = candidates.select_from_cache(cached, addresses, &recently_used).into_iter().collect();
        assert_eq!(found, HashSet::from([address(2), address(3), address(4)]), "its own stays a candidate");
        let all = candidates.select_from_cache(cached, addresses, &HashSet::new());
        let expected: Vec<_> = order(candidates, addresses).into_iter().filter(|free| *free != address(1)).collect();
        assert_eq!(all, expected[..FROM_CACHE], "the first few, in the pod's order");
    });
}

#[test]
fn claims_hide_the_addresses_of_other_endpoints() {
    with_candidates(&json!({}), |candidates, _, addresses| {
        let claims: Vec<_> = (1..=16).map(|last| claim(last, "d/web-1", None)).collect();
        let own = [claim(17, "d/web-0", None)];
        let free: HashSet<_> =
            candidates.select_from_claims(addresses, &[&claims[..], &own].concat()).into_iter().collect();
        assert_eq!(free, HashSet::from([address(17), address(18)]), "its own claim does not hide an address");
    });
}

#[test]
fn released_addresses_are_reclaimed_in_the_order_of_their_release() {
    with_candidates(&json!({}), |candidates, _, addresses| {
        let claims = [
            claim(1, "d/web-1", Some(30)),
            claim(2, "d/web-1", None),
            claim(3, "d/web-2", Some(10)),
            claim(4, "d/web-3", Some(20)),
            claim(19, "d/web-0", Some(1)),
            claim(20, "d/web-4", Some(2)),
            claim(21, "d/web-5", Some(3)),
        ];
        let reclaimable = candidates.reclaimable(addresses, &claims);
        let found: Vec<_> = reclaimable.iter().map(|claim| claim.spec.address).collect();
        let reason = "held, on another interface, reserved and outside of the pool are left out";
        assert_eq!(found, [address(3), address(4), address(1)], "{reason}");
    });
}

#[test]
fn an_exhausted_pool_names_some_of_its_holders() {
    with_candidates(&json!({}), |_, cached, _| {
        let pool = cached.parsed.as_ref().unwrap();
        let mut claims: Vec<_> = (1..=7).map(|last| claim(last, &format!("d/web-{last}"), None)).collect();
        claims.push(claim(8, "d/gone", Some(1)));
        let text = describe_exhausted("a", pool, &claims);
        let holders = "d/web-1, d/web-2, d/web-3, d/web-4, d/web-5 and 2 more";
        assert_eq!(text, format!("pool a is exhausted: its 20 addresses are held by {holders}, or reserved"));
        let empty = Pool { addresses: AddressSet::empty(pool.family()), ..pool.clone() };
        assert!(describe_exhausted("a", &empty, &claims).starts_with("pool a is empty"));
    });
}
