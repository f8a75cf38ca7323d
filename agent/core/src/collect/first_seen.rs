//! The time since a state was first seen, by the observer's own clock: a wrong wall clock never frees an address early.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    time::Duration,
};

/// The last seen state of each key, and when it was first seen. Times are since any fixed moment of one monotonic clock.
#[derive(Debug, Clone)]
pub struct FirstSeen<K, S>(HashMap<K, (S, Duration)>);

impl<K, S> Default for FirstSeen<K, S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, S: PartialEq> FirstSeen<K, S> {
    /// Records that `key` is in `state` at `now`, and returns for how long it has been.
    pub fn seen_for(&mut self, key: K, state: S, now: Duration) -> Duration {
        match self.0.entry(key) {
            Entry::Vacant(vacant) => now.saturating_sub(vacant.insert((state, now)).1),
            Entry::Occupied(mut seen) => {
                if seen.get().0 != state {
                    seen.insert((state, now));
                }
                now.saturating_sub(seen.get().1)
            }
        }
    }

    /// Removes a key.
    pub fn forget<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.remove(key);
    }

    /// Removes the keys for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true where there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
