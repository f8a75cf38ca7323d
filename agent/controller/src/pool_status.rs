//! The pools' status: the holder of each address, and the number of addresses in use. It is a view of claims and
//! endpoints, written again wherever it differs from them.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use holdfast_api::{
    endpoint::{EndpointIp, SpiderEndpoint},
    ippool::{Allocation, IpPoolStatus, SpiderIPPool},
    reserved::SpiderReservedIP,
};
use holdfast_core::pool::{AddressSet, Family, Pool, PoolError};
use kube::ResourceExt;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family as MetricFamily, gauge::Gauge},
    registry::Registry,
};

use crate::{
    conditions,
    context::Context,
    index::{Index, IndexedClaim},
    reflectors::Reflectors,
};

/// The maximum size of `status.allocatedIPs` in bytes. etcd refuses requests of more than 1.5 MiB, and in the request the
/// text is a JSON string, in which each quotation mark takes two bytes.
const MAX_ALLOCATED_IPS: usize = 1 << 20;
/// The minimum pause between two writes of a pool's status.
const MIN_WRITE_INTERVAL: Duration = Duration::from_millis(50);
/// The pause for each address in the status: large statuses cost the API server more.
const WRITE_INTERVAL_PER_ADDRESS: Duration = Duration::from_micros(100);
/// The maximum pause: users watch the status.
const MAX_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Writes the pools' statuses, each not more often than its size allows.
#[derive(Debug)]
pub(crate) struct PoolStatusWriter {
    next_write: HashMap<String, Duration>,
    metrics: PoolMetrics,
}

impl PoolStatusWriter {
    pub(crate) fn new(metrics: PoolMetrics) -> Self {
        Self { next_write: HashMap::new(), metrics }
    }

    /// Writes a pool's status if it differs from claims and endpoints. Returns the time at which the pool is due again if
    /// its status was written a moment ago.
    pub(crate) async fn write(
        &mut self,
        context: &Context,
        index: &Index,
        name: &str,
        now: Duration,
    ) -> Option<Duration> {
        if let Some(next) = self.next_write.get(name).copied().filter(|next| *next > now) {
            return Some(next);
        }
        let pool = context.reflectors.pool(name)?;
        let allocations = allocations(name, index, &context.reflectors);
        let next = next_status(&pool, &allocations, &context.reflectors);
        self.metrics.set_pool(name, &next);
        if pool.status.as_ref() == Some(&next) {
            return None;
        }
        let pause = WRITE_INTERVAL_PER_ADDRESS.saturating_mul(u32::try_from(allocations.len()).unwrap_or(u32::MAX));
        self.next_write.insert(name.to_owned(), now + pause.clamp(MIN_WRITE_INTERVAL, MAX_WRITE_INTERVAL));
        if let Err(error) = context.store.write_pool_status(&pool, &next).await {
            context.pool_write_failed(name, &error, "the pool's status was not written");
        }
        None
    }

    /// Forgets a pool that is gone.
    pub(crate) fn forget(&mut self, name: &str) {
        self.next_write.remove(name);
        self.metrics.remove_pool(name);
    }

    /// Sets the number of pools.
    pub(crate) fn set_pool_count(&self, count: usize) {
        self.metrics.count.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Returns the status that a pool should have by the caches.
fn next_status(pool: &SpiderIPPool, allocations: &[(IpAddr, Allocation)], reflectors: &Reflectors) -> IpPoolStatus {
    let (name, parsed) = (pool.name_any(), pool.spec.parse());
    let others = reflectors.pools.state();
    let others = others.iter().filter(|other| other.name_any() != name);
    let overlaps = conditions::overlaps(parsed.as_ref().ok(), others.map(AsRef::as_ref));
    let reserved = parsed
        .as_ref()
        .map_or(AddressSet::empty(Family::V4), |pool| reserved(&reflectors.reserved.state(), pool.family()));
    status(pool, parsed.as_ref(), allocations, &reserved, &overlaps)
}

/// Returns the held addresses of a pool, in ascending order.
fn allocations(pool: &str, index: &Index, reflectors: &Reflectors) -> Vec<(IpAddr, Allocation)> {
    let held = index.claims_of_pool(pool).filter(|claim| !claim.released && claim.locks_address);
    let mut allocations: Vec<_> = held
        .map(|claim| {
            let endpoint = claim.endpoint.as_ref().and_then(|endpoint| reflectors.endpoint(endpoint));
            (claim.address, allocation(claim, endpoint.as_deref()))
        })
        .collect();
    allocations.sort_unstable_by_key(|(address, _)| *address);
    allocations
}

/// Returns an address in use as the status shows it. Between the writes of its claim and its endpoint, only the pod's name
/// is known.
fn allocation(claim: &IndexedClaim, endpoint: Option<&SpiderEndpoint>) -> Allocation {
    let pod = claim.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
    let record = endpoint.map(SpiderEndpoint::record);
    let current = record.as_ref().map(|record| &record.current);
    let has_address = |ip: &&EndpointIp| ip.networks().any(|net| net.addr() == claim.address);
    match current.and_then(|current| Some((current, current.ips.iter().find(has_address)?))) {
        None => Allocation { interface: String::new(), pod, pod_uid: String::new(), container_id: None },
        Some((current, ip)) => Allocation {
            interface: ip.interface.clone(),
            pod,
            pod_uid: current.uid.clone(),
            container_id: current.container_id.clone().map(Into::into),
        },
    }
}

/// Returns a pool's status. The allocations are cut where one object cannot hold them; the counts are of all.
fn status(
    pool: &SpiderIPPool,
    parsed: Result<&Pool, &PoolError>,
    allocations: &[(IpAddr, Allocation)],
    reserved: &AddressSet,
    overlaps: &[String],
) -> IpPoolStatus {
    let total = parsed.map_or(0, |pool| pool.addresses.len());
    let inside = |address: IpAddr| parsed.is_ok_and(|pool| pool.addresses.contains(address));
    let named = |which: &dyn Fn(IpAddr) -> bool| -> Vec<String> {
        let held = allocations.iter().filter(|(address, _)| which(*address));
        held.map(|(address, allocation)| format!("{address} ({})", allocation.pod)).collect()
    };
    let outside = named(&|address| !inside(address));
    let (text, shown) = to_json_up_to(allocations, MAX_ALLOCATED_IPS);
    let in_use = allocations.len() - outside.len();
    let facts = conditions::Facts {
        size: parsed.map(|pool| pool.addresses.len()),
        free: parsed.map_or(0, |pool| free(pool, allocations, reserved)),
        held: allocations.len(),
        shown,
        reserved: named(&|address| inside(address) && reserved.contains(address)),
        outside,
        overlaps,
    };
    IpPoolStatus {
        allocated_ips: (!allocations.is_empty()).then_some(text),
        total_ip_count: Some(i64::try_from(total).unwrap_or(i64::MAX)),
        allocated_ip_count: Some(i64::try_from(in_use).unwrap_or(i64::MAX)),
        conditions: conditions::of(pool, &facts),
    }
}

/// Returns the number of addresses that are neither in use nor reserved.
fn free(pool: &Pool, allocations: &[(IpAddr, Allocation)], reserved: &AddressSet) -> u128 {
    let left = pool.addresses.without(reserved);
    let used = allocations.iter().filter(|(address, _)| left.contains(*address)).count();
    left.len() - used as u128
}

/// Returns the reserved addresses of a family. Text that is no address reserves nothing, as in the agents.
fn reserved(objects: &[Arc<SpiderReservedIP>], family: Family) -> AddressSet {
    let texts = objects.iter().flat_map(|object| &object.spec.ips);
    let valid: Vec<_> = texts.filter(|text| AddressSet::parse(family, &[text]).is_ok()).collect();
    AddressSet::parse(family, &valid).unwrap_or_else(|_| AddressSet::empty(family))
}

/// Returns the JSON of as many allocations as fit into `limit` bytes once it is a JSON string, and their number.
fn to_json_up_to(allocations: &[(IpAddr, Allocation)], limit: usize) -> (String, usize) {
    let (mut text, mut size, mut shown) = ("{".to_owned(), 2, 0);
    for (address, allocation) in allocations {
        let value = serde_json::to_string(allocation).unwrap_or_default();
        let entry = format!("{}\"{address}\":{value}", if shown == 0 { "" } else { "," });
        size += entry.len() + entry.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
        if size > limit {
            break;
        }
        text.push_str(&entry);
        shown += 1;
    }
    text.push('}');
    (text, shown)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    ippool: String,
}

/// Gauges of the pools and their sizes. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct PoolMetrics {
    count: Gauge,
    total: MetricFamily<PoolLabel, Gauge>,
    available: MetricFamily<PoolLabel, Gauge>,
}

impl PoolMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        registry.register("spiderpool_total_ippool_counts", "Pools", new.count.clone());
        registry.register("spiderpool_debug_ippool_total_ip_counts", "Addresses of a pool", new.total.clone());
        registry.register(
            "spiderpool_debug_ippool_available_ip_counts",
            "Addresses of a pool that are not in use",
            new.available.clone(),
        );
        new
    }

    pub(crate) fn set_pool(&self, pool: &str, status: &IpPoolStatus) {
        let label = PoolLabel { ippool: pool.to_owned() };
        let (total, used) = (status.total_ip_count.unwrap_or(0), status.allocated_ip_count.unwrap_or(0));
        self.total.get_or_create(&label).set(total);
        self.available.get_or_create(&label).set((total - used).max(0));
    }

    pub(crate) fn remove_pool(&self, pool: &str) {
        let label = PoolLabel { ippool: pool.to_owned() };
        self.total.remove(&label);
        self.available.remove(&label);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_api::{
        claim::{ClaimState, IPClaim},
        endpoint::{EndpointStatus, Holder},
        ippool::Allocations,
    };
    use holdfast_core::id::PodName;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn pool(spec: serde_json::Value) -> SpiderIPPool {
        SpiderIPPool::new("p", serde_json::from_value(spec).unwrap())
    }

    fn allocation(address: &str) -> (IpAddr, Allocation) {
        let shown = Allocation {
            interface: "eth0".into(),
            pod: "default/web-0".into(),
            pod_uid: "u".into(),
            container_id: Some("c".into()),
        };
        (address.parse().unwrap(), shown)
    }

    fn status_of(pool: &SpiderIPPool, allocations: &[(IpAddr, Allocation)]) -> IpPoolStatus {
        status(pool, pool.spec.parse().as_ref(), allocations, &AddressSet::empty(Family::V4), &[])
    }

    fn condition<'a>(status: &'a IpPoolStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn a_status_that_was_written_stays_the_same() {
        let mut pool = pool(json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1-10.0.0.9"]}));
        let allocations = [allocation("10.0.0.1")];
        let first = status_of(&pool, &allocations);
        assert_eq!(
            first.allocated_ips.as_deref(),
            Some(r#"{"10.0.0.1":{"interface":"eth0","pod":"default/web-0","podUid":"u","containerID":"c"}}"#)
        );
        assert_eq!((first.total_ip_count, first.allocated_ip_count), (Some(9), Some(1)));
        pool.status = Some(first.clone());
        assert_eq!(status_of(&pool, &allocations), first);
    }

    #[test]
    fn a_pool_without_addresses_is_not_ready() {
        for (spec, reason) in [
            (json!({"subnet": "10.0.0.0/24"}), "Empty"),
            (json!({"subnet": "10.0.0.0/24", "ips": ["x"]}), "InvalidSpec"),
        ] {
            let status = status_of(&pool(spec), &[]);
            let ready = condition(&status, "Ready");
            assert_eq!((ready.0, ready.1), ("False", reason));
            assert_eq!((status.allocated_ips.as_deref(), status.total_ip_count), (None, Some(0)));
        }
    }

    #[test]
    fn holders_outside_a_shrunk_pool_are_shown_and_not_counted() {
        let pool = pool(json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1"]}));
        let status = status_of(&pool, &[allocation("10.0.0.1"), allocation("10.0.0.7")]);
        assert_eq!((status.total_ip_count, status.allocated_ip_count), (Some(1), Some(1)));
        assert!(status.allocated_ips.as_ref().unwrap().contains("10.0.0.7"));
        assert!(condition(&status, "HeldOutside").2.contains("10.0.0.7 (default/web-0)"));
        assert_eq!(condition(&status, "Exhausted").0, "True");
    }

    #[test]
    fn reserved_addresses_are_not_free() {
        let pool = pool(json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1-10.0.0.4"]}));
        let spec = serde_json::from_value(json!({"ips": ["10.0.0.1-10.0.0.3", "fd00::1", "nonsense"]})).unwrap();
        let reserved = reserved(&[Arc::new(SpiderReservedIP::new("r", spec))], Family::V4);
        let of = |held: &[_]| status(&pool, pool.spec.parse().as_ref(), held, &reserved, &[]);
        let one = of(&[allocation("10.0.0.1")]);
        assert_eq!(condition(&one, "HeldReserved").0, "True");
        assert!(condition(&one, "HeldReserved").2.contains("10.0.0.1 (default/web-0)"));
        assert_eq!(condition(&one, "Exhausted").0, "False");
        let two = of(&[allocation("10.0.0.1"), allocation("10.0.0.4")]);
        assert_eq!(condition(&two, "Exhausted").0, "True");
        assert_eq!((two.total_ip_count, two.allocated_ip_count), (Some(4), Some(2)));
        assert_eq!(condition(&of(&[allocation("10.0.0.4")]), "HeldReserved").0, "False");
    }

    #[test]
    fn the_allocations_are_cut_at_the_limit() {
        let many: Vec<_> = (1..=20u32).map(|n| (IpAddr::V4(n.into()), allocation("10.0.0.1").1)).collect();
        let (whole, all) = to_json_up_to(&many, MAX_ALLOCATED_IPS);
        let parsed: Allocations = serde_json::from_str(&whole).unwrap();
        assert_eq!((all, parsed.len()), (20, 20));
        let escaped = serde_json::to_string(&whole).unwrap().len() - 2;
        assert_eq!(to_json_up_to(&many, escaped).1, 20);
        let (part, shown) = to_json_up_to(&many, escaped - 1);
        let parsed: Allocations = serde_json::from_str(&part).unwrap();
        assert_eq!((shown, parsed.len()), (19, 19));
        assert_eq!(to_json_up_to(&many, 0), ("{}".to_owned(), 0));
    }

    #[test]
    fn held_claims_are_shown_with_their_holder() {
        let (reflectors, mut writers) = Reflectors::new();
        let (mut index, pod) = (Index::default(), PodName::new("d", "web-0"));
        for (address, state) in
            [("10.0.0.9", ClaimState::Held), ("10.0.0.1", ClaimState::Held), ("10.0.0.5", ClaimState::Released)]
        {
            let mut claim = IPClaim::held(address.parse().unwrap(), "p", &pod);
            claim.spec.state = state;
            index.set_claim(address, Some(&claim));
        }
        let mut endpoint = SpiderEndpoint::for_pod(&pod);
        let ip = EndpointIp { interface: "eth0".into(), ipv4: Some("10.0.0.9/24".into()), ..EndpointIp::default() };
        let current = Holder { uid: "u".into(), ips: vec![ip], ..Holder::default() };
        endpoint.status = Some(EndpointStatus { current, ..EndpointStatus::default() });
        writers.endpoints.apply_watcher_event(&Event::Apply(endpoint));
        let shown = allocations("p", &index, &reflectors);
        let shown: Vec<_> = shown
            .iter()
            .map(|(address, shown)| {
                (address.to_string(), shown.pod.as_str(), shown.pod_uid.as_str(), shown.interface.as_str())
            })
            .collect();
        let expected = [("10.0.0.1".to_owned(), "d/web-0", "", ""), ("10.0.0.9".to_owned(), "d/web-0", "u", "eth0")];
        assert_eq!(shown, expected, "the endpoint lists one of them yet");
    }
}
