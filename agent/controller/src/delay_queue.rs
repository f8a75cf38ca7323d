//! When to look at what again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use holdfast_core::id::PodName;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Requeue {
    Endpoint(PodName),
    Claim(String),
    Pool(String),
    /// What other IPAMs left.
    Import,
}

/// One time for each thing. ObservedDurations are on the controller's clock.
#[derive(Debug, Default)]
pub(super) struct DelayQueue {
    by_time: BTreeMap<Duration, HashSet<Requeue>>,
    times: HashMap<Requeue, Duration>,
}

impl DelayQueue {
    /// Looks at `due` at `time`, or before if that was planned already.
    pub(super) fn set(&mut self, time: Duration, due: Requeue) {
        match self.times.get(&due) {
            Some(planned) if *planned <= time => return,
            Some(planned) => {
                if let Some(others) = self.by_time.get_mut(planned) {
                    others.remove(&due);
                }
            }
            None => {}
        }
        self.times.insert(due.clone(), time);
        self.by_time.entry(time).or_default().insert(due);
    }

    /// Takes everything whose time has come.
    pub(super) fn take(&mut self, now: Duration) -> Vec<Requeue> {
        let mut taken = Vec::new();
        while let Some(entry) = self.by_time.first_entry().filter(|entry| *entry.key() <= now) {
            taken.extend(entry.remove());
        }
        for due in &taken {
            self.times.remove(due);
        }
        taken
    }

    /// When the next time comes.
    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_time_counts() {
        let (mut delay_queue, claim) = (DelayQueue::default(), |name: &str| Requeue::Claim(name.to_owned()));
        let s = Duration::from_secs;
        delay_queue.set(s(5), claim("a"));
        delay_queue.set(s(9), claim("a"));
        delay_queue.set(s(9), claim("b"));
        delay_queue.set(s(3), claim("b"));
        assert_eq!(delay_queue.take(s(2)), []);
        assert_eq!(delay_queue.take(s(4)), [claim("b")]);
        assert_eq!(delay_queue.take(s(100)), [claim("a")]);
        assert_eq!((delay_queue.next(), delay_queue.times.len()), (None, 0));
    }
}
