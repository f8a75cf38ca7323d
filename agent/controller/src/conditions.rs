//! The conditions of a pool's status.

use holdfast_api::ippool::SpiderIPPool;
use holdfast_core::pool::{Pool, PoolError};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

/// The maximum number of holders or pools that a message names.
const NAMED: usize = 5;

/// The facts about a pool that its conditions state.
pub(crate) struct Facts<'a> {
    /// The number of addresses of the pool's spec; an error if the spec is invalid.
    pub(crate) size: Result<u128, &'a PoolError>,
    /// The number of those that are neither in use nor reserved.
    pub(crate) free: u128,
    /// The number of addresses in use.
    pub(crate) held: usize,
    /// The number of those that `status.allocatedIPs` shows.
    pub(crate) shown: usize,
    /// The addresses in use that are not, or no longer, the pool's, and their pods.
    pub(crate) outside: Vec<String>,
    /// The addresses in use that have been reserved since, and their pods.
    pub(crate) reserved: Vec<String>,
    /// The pools that share addresses with this one.
    pub(crate) overlaps: &'a [String],
}

/// Returns the names of the pools that share addresses with `pool`.
pub(crate) fn overlaps<'a>(pool: Option<&Pool>, others: impl Iterator<Item = &'a SpiderIPPool>) -> Vec<String> {
    let Some(pool) = pool else { return Vec::new() };
    let shares = |other: &&SpiderIPPool| {
        let other = other.spec.parse();
        other.is_ok_and(|other| pool.addresses.without(&other.addresses) != pool.addresses)
    };
    let mut names: Vec<_> = others.filter(shares).map(ResourceExt::name_any).collect();
    names.sort_unstable();
    names
}

/// Returns all conditions of a pool.
pub(crate) fn of(pool: &SpiderIPPool, facts: &Facts<'_>) -> Vec<Condition> {
    let (ready, why, text) = match facts.size {
        Err(error) => (false, "InvalidSpec", error.to_string()),
        Ok(0) => (false, "Empty", "spec.ips less spec.excludeIPs and the gateway leaves no address".to_owned()),
        Ok(size) => (true, "Valid", format!("the pool gives out {size} addresses")),
    };
    let full = facts.size.is_ok_and(|size| size > 0) && facts.free == 0;
    let exhausted = if full {
        let text = "every address is in use or reserved: add some to spec.ips, or end pods that use the pool";
        ("AllInUse", text.to_owned())
    } else {
        ("AddressesLeft", "some address is neither in use nor reserved".to_owned())
    };
    let overlapping = if facts.overlaps.is_empty() {
        ("NoneShared", "no other pool has addresses of this one".to_owned())
    } else {
        let names = some_of(facts.overlaps);
        (
            "AddressesShared",
            format!("pools {names} have addresses of this one too; each is given out once, but by any of them"),
        )
    };
    let outside = if facts.outside.is_empty() {
        ("NoneOutside", "every address in use is one that the pool gives out".to_owned())
    } else {
        let names = some_of(&facts.outside);
        ("StillInUse", format!("in use, but not given out (any more): {names}; their holders keep them"))
    };
    let reserved = if facts.reserved.is_empty() {
        ("NoneReserved", "no address in use is reserved".to_owned())
    } else {
        let names = some_of(&facts.reserved);
        (
            "StillInUse",
            format!("reserved, but in use: {names}; their holders keep them, and afterwards they are not given out"),
        )
    };
    let cut = if facts.shown == facts.held {
        ("Complete", "status.allocatedIPs shows every address in use".to_owned())
    } else {
        let (shown, held) = (facts.shown, facts.held);
        let text = format!(
            "status.allocatedIPs shows {shown} of {held}, what one object can hold; `kubectl get ipclaims` shows all"
        );
        ("TooLarge", text)
    };
    let condition = |kind: &str, is: bool, (reason, message): (&str, String)| make(pool, kind, is, reason, message);
    vec![
        condition("Ready", ready, (why, text)),
        condition("Exhausted", full, exhausted),
        condition("Overlapping", !facts.overlaps.is_empty(), overlapping),
        condition("HeldOutside", !facts.outside.is_empty(), outside),
        condition("HeldReserved", !facts.reserved.is_empty(), reserved),
        condition("ViewCut", facts.shown != facts.held, cut),
    ]
}

fn some_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first = names[..names.len() - more].join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

fn make(pool: &SpiderIPPool, kind: &str, is: bool, reason: &str, message: String) -> Condition {
    let status = if is { "True" } else { "False" };
    let before = pool.status.iter().flat_map(|status| &status.conditions).find(|before| before.type_ == kind);
    let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: pool.metadata.generation,
        // The API server keeps whole seconds; a fraction would differ from what is read back for ever.
        last_transition_time: since.unwrap_or_else(|| Time(whole_seconds())),
    }
}

fn whole_seconds() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(name: &str, ips: &str) -> SpiderIPPool {
        SpiderIPPool::new(name, serde_json::from_value(json!({"subnet": "10.0.0.0/24", "ips": [ips]})).unwrap())
    }

    #[test]
    fn overlapping_pools_are_named() {
        let (a, b, c) = (pool("a", "10.0.0.1-10.0.0.9"), pool("b", "10.0.0.9-10.0.0.20"), pool("c", "10.0.0.30"));
        let parsed = a.spec.parse().unwrap();
        assert_eq!(overlaps(Some(&parsed), [&b, &c].into_iter()), ["b"]);
        assert_eq!(overlaps(None, [&b].into_iter()), [""; 0]);
        let shared = ["b".to_owned()];
        let facts = Facts {
            size: Ok(9),
            free: 0,
            held: 9,
            shown: 3,
            outside: vec!["x".into(); 7],
            reserved: Vec::new(),
            overlaps: &shared,
        };
        let conditions = of(&a, &facts);
        let all: Vec<_> = conditions.iter().map(|found| (found.type_.as_str(), found.status.as_str())).collect();
        let expected = [
            ("Ready", "True"),
            ("Exhausted", "True"),
            ("Overlapping", "True"),
            ("HeldOutside", "True"),
            ("HeldReserved", "False"),
            ("ViewCut", "True"),
        ];
        assert_eq!(all, expected);
        assert!(conditions[3].message.contains("and 2 more") && conditions[5].message.contains("3 of 9"));
    }
}
