//! The limit on how many events of one reason a pod gets.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use holdfast_core::id::PodName;

/// The window in which an event about the same pod, reason and address is recorded once.
const WINDOW: Duration = Duration::from_secs(30);
/// The number of addresses in one window that a pod gets events of one reason about. A pod that scans a subnet would
/// otherwise fill the queue.
const MAX_ADDRESSES: usize = 8;

/// Limits the events about addresses: each pod, reason and address once in 30 s, and at most eight addresses for each pod
/// and reason in that time.
#[derive(Debug, Default)]
pub struct EventRateLimit {
    windows: HashMap<(PodName, &'static str), Window>,
}

/// The addresses that events of one pod and reason were about.
#[derive(Debug)]
struct Window {
    opened: Instant,
    addresses: HashSet<IpAddr>,
}

impl EventRateLimit {
    /// Returns whether an event may be recorded at `now`, and counts it if so.
    pub fn admit(&mut self, pod: &PodName, reason: &'static str, address: IpAddr, now: Instant) -> bool {
        self.windows.retain(|_, window| now.saturating_duration_since(window.opened) < WINDOW);
        let open = || Window { opened: now, addresses: HashSet::new() };
        let addresses = &mut self.windows.entry((pod.clone(), reason)).or_insert_with(open).addresses;
        addresses.len() < MAX_ADDRESSES && addresses.insert(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_one_event_per_address_and_at_most_eight_addresses() {
        let (mut limit, now) = (EventRateLimit::default(), Instant::now());
        let (pod, other) = (PodName::new("n", "a"), PodName::new("n", "b"));
        let mut admit = |pod: &PodName, last: u8| limit.admit(pod, "SourceViolation", [10, 0, 0, last].into(), now);
        assert!(admit(&pod, 1) && !admit(&pod, 1));
        assert_eq!((2..=200).filter(|last| admit(&pod, *last)).count(), MAX_ADDRESSES - 1);
        assert!(admit(&other, 1), "a scan by one pod hides no event of another");
        assert!(limit.admit(&pod, "AddressConflict", [10, 0, 0, 1].into(), now), "reasons are counted apart");
    }

    #[test]
    fn a_window_ends_after_its_time() {
        let (mut limit, now, pod) = (EventRateLimit::default(), Instant::now(), PodName::new("n", "a"));
        let mut admit = |after: Duration| limit.admit(&pod, "SourceViolation", [10, 0, 0, 1].into(), now + after);
        assert!(admit(Duration::ZERO));
        assert!(!admit(WINDOW.checked_sub(Duration::from_millis(1)).unwrap()));
        assert!(admit(WINDOW));
        assert!(!admit(WINDOW), "a new window has begun");
    }
}
