//! The programs' counters.

use std::collections::BTreeMap;

use holdfast_abi::Counter;

/// Counts since the maps were made, summed over CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<Counter, u64>);

impl Counters {
    /// Returns one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(&counter).copied().unwrap_or_default()
    }

    /// Returns all counters.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        self.0.iter().map(|(counter, value)| (*counter, *value))
    }

    /// Returns the number of packets that pods sent or tried to send.
    pub fn from_pods(&self) -> u64 {
        [
            Counter::PassCurrent,
            Counter::PassOutside,
            Counter::PassOther,
            Counter::PassObserved,
            Counter::DropStale,
            Counter::DropForeign,
            Counter::DropMac,
            Counter::DropLease,
            Counter::DropMalformed,
        ]
        .into_iter()
        .map(|counter| self.get(counter))
        .sum()
    }
}

impl FromIterator<(Counter, u64)> for Counters {
    fn from_iter<I: IntoIterator<Item = (Counter, u64)>>(counts: I) -> Self {
        Self(counts.into_iter().collect())
    }
}
