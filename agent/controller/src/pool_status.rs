//! The pools' status: who has which address, and how many are in use. Rebuilt from claims and endpoints, whoever changed it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use holdfast_api::{
    endpoint::SpiderEndpoint,
    ippool::{Allocation, IpPoolStatus, SpiderIPPool},
    reserved::SpiderReservedIP,
};
use holdfast_core::pool::{AddressSet, Family, Pool, PoolError};
use kube::ResourceExt;

use super::{Controller, Requeue, conditions, index::Claimed};

/// How many bytes of an object the text of a view may take. etcd refuses requests of more than 1.5 MiB, and the text
/// stands there as a string, in which each quotation mark takes two bytes.
pub(super) const VIEW_LIMIT: usize = 1 << 20;
/// How long a pool rests between two writes, at least.
const BETWEEN_WRITES: Duration = Duration::from_millis(50);
/// And for each address that its view shows: large views cost the API server more.
const FOR_EACH_ADDRESS: Duration = Duration::from_micros(100);
/// And at most: people look.
const AT_MOST: Duration = Duration::from_secs(1);

impl Controller {
    /// Writes a pool's status if it is not what it should be, unless it was written a moment ago.
    pub(super) async fn write_pool_status(&mut self, name: &str, now: Duration) {
        if let Some(next) = self.state.next_write.get(name).copied().filter(|next| *next > now) {
            self.state.delay_queue.set(next, Requeue::Pool(name.to_owned()));
            return;
        }
        let Some(pool) = self.reflectors.pool(name) else {
            self.state.next_write.remove(name);
            self.metrics.forget_pool(name);
            return;
        };
        if self.state.held_back.contains(name) && pool.is_foreign() {
            return;
        }
        let allocations = self.allocations(name);
        let parsed = pool.spec.parse();
        let others = self.reflectors.pools.state();
        let others = others.iter().filter(|other| other.name_any() != name);
        let overlaps = conditions::overlaps(parsed.as_ref().ok(), others.map(AsRef::as_ref));
        let reserved = parsed
            .as_ref()
            .map_or(AddressSet::empty(Family::V4), |pool| reserved(&self.reflectors.reserved.state(), pool.family()));
        let next = status(&pool, parsed.as_ref(), &allocations, &reserved, &overlaps);
        self.metrics.show_pool(name, &next);
        if pool.status.as_ref() == Some(&next) {
            return;
        }
        let rest = FOR_EACH_ADDRESS.saturating_mul(u32::try_from(allocations.len()).unwrap_or(u32::MAX));
        self.state.next_write.insert(name.to_owned(), now + rest.clamp(BETWEEN_WRITES, AT_MOST));
        if let Err(error) = self.store.write_pool_status(&pool, &next).await {
            self.pool_failed(name, &error, "its status was not written");
        }
    }

    /// What is held in a pool, in the order of its text.
    fn allocations(&self, pool: &str) -> Vec<(IpAddr, Allocation)> {
        let held = self.state.index.claims_of_pool(pool).filter(|claim| !claim.released && claim.well_named);
        let mut shown: Vec<_> = held
            .map(|claim| {
                let endpoint = claim.endpoint.as_ref().and_then(|endpoint| self.reflectors.endpoint(endpoint));
                (claim.address, show(claim, endpoint.as_deref()))
            })
            .collect();
        shown.sort_unstable_by_key(|(address, _)| *address);
        shown
    }
}

/// An address in use. Between its claim and its endpoint, only the pod's name is known.
fn show(claim: &Claimed, endpoint: Option<&SpiderEndpoint>) -> Allocation {
    let pod = claim.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
    let record = endpoint.map(SpiderEndpoint::record);
    let current = record.as_ref().map(|record| &record.current);
    let on = |ip: &&holdfast_api::endpoint::EndpointIp| ip.networks().any(|net| net.addr() == claim.address);
    match current.and_then(|current| Some((current, current.ips.iter().find(on)?))) {
        None => Allocation { interface: String::new(), pod, pod_uid: String::new(), container_id: None },
        Some((current, ip)) => Allocation {
            interface: ip.interface.clone(),
            pod,
            pod_uid: current.uid.clone(),
            container_id: current.container_id.clone().map(Into::into),
        },
    }
}

/// A pool's status, with its view cut where one object cannot hold it. The counts are of all.
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
    let (text, shown) = cut(allocations, VIEW_LIMIT);
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

/// How many addresses a pool still has to give.
fn free(pool: &Pool, allocations: &[(IpAddr, Allocation)], reserved: &AddressSet) -> u128 {
    let left = pool.addresses.without(reserved);
    let used = allocations.iter().filter(|(address, _)| left.contains(*address)).count();
    left.len() - used as u128
}

/// What is reserved of a family. A text that is no address reserves nothing, as with the agents.
fn reserved(objects: &[Arc<SpiderReservedIP>], family: Family) -> AddressSet {
    let texts = objects.iter().flat_map(|object| &object.spec.ips);
    let valid: Vec<_> = texts.filter(|text| AddressSet::parse(family, &[text]).is_ok()).collect();
    AddressSet::parse(family, &valid).unwrap_or_else(|_| AddressSet::empty(family))
}

/// The JSON of as many allocations as fit, and how many those are.
fn cut(allocations: &[(IpAddr, Allocation)], limit: usize) -> (String, usize) {
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

#[cfg(test)]
mod tests {
    use holdfast_api::ippool::Allocations;
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
    fn the_status_settles() {
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
    fn a_pool_without_addresses_says_so() {
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
    fn reserved_addresses_are_nobodys_next() {
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
    fn a_view_is_cut_at_what_an_object_holds() {
        let many: Vec<_> = (1..=20u32).map(|n| (IpAddr::V4(n.into()), allocation("10.0.0.1").1)).collect();
        let (whole, all) = cut(&many, VIEW_LIMIT);
        let parsed: Allocations = serde_json::from_str(&whole).unwrap();
        assert_eq!((all, parsed.len()), (20, 20));
        let escaped = serde_json::to_string(&whole).unwrap().len() - 2;
        assert_eq!(cut(&many, escaped).1, 20);
        let (part, shown) = cut(&many, escaped - 1);
        let parsed: Allocations = serde_json::from_str(&part).unwrap();
        assert_eq!((shown, parsed.len()), (19, 19));
        assert_eq!(cut(&many, 0), ("{}".to_owned(), 0));
    }
}
