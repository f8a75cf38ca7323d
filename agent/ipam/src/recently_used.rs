//! Addresses that this agent saw in use a moment ago.
//!
//! A pool's status follows with some delay. Until it shows an address in use, this memory saves the next ADD a round trip.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The time for which an address is remembered. Longer than the controller takes to write a pool's status.
const MEMORY: Duration = Duration::from_secs(30);

/// Addresses in use, each with the time of the observation and the endpoint (`namespace/name`) that has it.
#[derive(Debug, Default)]
pub(crate) struct RecentlyUsed(Mutex<HashMap<IpAddr, (Instant, String)>>);

impl RecentlyUsed {
    /// Returns the addresses that endpoints other than `pod` use. An address that an interrupted ADD of the same pod
    /// acquired is the best candidate for its next ADD, so it is left out.
    pub(crate) fn by_others(&self, pod: &str, now: Instant) -> HashSet<IpAddr> {
        let mut used = self.0.lock();
        used.retain(|_, (seen, _)| now.duration_since(*seen) < MEMORY);
        used.iter().filter(|(_, (_, endpoint))| endpoint != pod).map(|(address, _)| *address).collect()
    }

    /// Remembers that `endpoint` uses `address`.
    pub(crate) fn record(&self, address: IpAddr, endpoint: String, now: Instant) {
        self.0.lock().insert(address, (now, endpoint));
    }

    /// Forgets addresses that are being released.
    pub(crate) fn forget(&self, addresses: &[IpAddr]) {
        self.0.lock().retain(|address, _| !addresses.contains(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_other_endpoints_are_remembered_for_a_while() {
        let used = RecentlyUsed::default();
        let (first, second) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let start = Instant::now();
        used.record(first, "d/web-0".to_owned(), start);
        used.record(second, "d/web-1".to_owned(), start + MEMORY / 2);
        assert_eq!(used.by_others("d/other", start + MEMORY / 2), HashSet::from([first, second]));
        assert_eq!(used.by_others("d/web-0", start + MEMORY / 2), HashSet::from([second]), "its own is a candidate");
        assert_eq!(used.by_others("d/other", start + MEMORY), HashSet::from([second]), "the first is forgotten");
        used.forget(&[second]);
        assert_eq!(used.by_others("d/other", start + MEMORY), HashSet::new());
    }
}
