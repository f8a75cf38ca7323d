//! Since when things have been as they are, by the observer's own clock: nobody's wall clock frees anything early.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    time::Duration,
};

/// What each key was last seen as, and since when. Times are since any fixed moment of one clock that only runs forward.
#[derive(Debug, Clone)]
pub struct FirstSeen<K, S>(HashMap<K, (S, Duration)>);

impl<K, S> Default for FirstSeen<K, S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, S: PartialEq> FirstSeen<K, S> {
    /// For how long `key` has been seen as `state`, which it is now.
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

    /// Forgets a key that is gone.
    pub fn forget<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.remove(key);
    }

    /// Forgets the keys that are not to be remembered any more.
    pub fn retain(&mut self, mut remember: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| remember(key));
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
