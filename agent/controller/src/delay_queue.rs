//! The objects that are looked at again later.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use holdfast_core::id::PodName;

use crate::assessment::Assessment;

/// An object to look at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Requeue {
    Endpoint(PodName),
    Claim(String),
    Pool(String),
    /// The records of another IPAM.
    Import,
}

/// A queue that holds each object once, with the time at which it is due. Times are on the controller's clock.
#[derive(Debug, Default)]
pub(crate) struct DelayQueue {
    by_time: BTreeMap<Duration, HashSet<Requeue>>,
    times: HashMap<Requeue, Duration>,
}

impl DelayQueue {
    /// Adds `item`, due at `time`. An item that is in the queue already keeps the earlier of the two times.
    pub(crate) fn add(&mut self, time: Duration, item: Requeue) {
        match self.times.get(&item) {
            Some(planned) if *planned <= time => return,
            Some(planned) => {
                if let Some(others) = self.by_time.get_mut(planned) {
                    others.remove(&item);
                }
            }
            None => {}
        }
        self.times.insert(item.clone(), time);
        self.by_time.entry(time).or_default().insert(item);
    }

    /// Returns the object to act on, if the assessment demands it; adds `item` if the object is to be looked at later.
    pub(crate) fn act_or_requeue<T>(
        &mut self,
        assessment: Assessment<T>,
        now: Duration,
        item: impl FnOnce() -> Requeue,
    ) -> Option<T> {
        match assessment {
            Assessment::Keep => None,
            Assessment::RequeueAfter(pause) => {
                self.add(now + pause, item());
                None
            }
            Assessment::Act(object) => Some(object),
        }
    }

    /// Removes and returns all items that are due.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<Requeue> {
        let mut taken = Vec::new();
        while let Some(entry) = self.by_time.first_entry().filter(|entry| *entry.key() <= now) {
            taken.extend(entry.remove());
        }
        for item in &taken {
            self.times.remove(item);
        }
        taken
    }

    /// Returns the time at which the next item is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.by_time.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_keeps_its_earlier_time() {
        let (mut queue, claim) = (DelayQueue::default(), |name: &str| Requeue::Claim(name.to_owned()));
        let s = Duration::from_secs;
        queue.add(s(5), claim("a"));
        queue.add(s(9), claim("a"));
        queue.add(s(9), claim("b"));
        queue.add(s(3), claim("b"));
        assert_eq!(queue.take_due(s(2)), []);
        assert_eq!(queue.take_due(s(4)), [claim("b")]);
        assert_eq!(queue.take_due(s(100)), [claim("a")]);
        assert_eq!((queue.next_due(), queue.times.len()), (None, 0));
    }

    #[test]
    fn an_assessment_keeps_requeues_or_returns_an_object() {
        let (mut queue, s) = (DelayQueue::default(), Duration::from_secs);
        let claim = || Requeue::Claim("a".to_owned());
        assert_eq!(queue.act_or_requeue(Assessment::Act(7), s(1), claim), Some(7));
        assert_eq!(queue.act_or_requeue(Assessment::<u8>::Keep, s(1), claim), None);
        assert_eq!(queue.next_due(), None);
        assert_eq!(queue.act_or_requeue(Assessment::<u8>::RequeueAfter(s(4)), s(1), claim), None);
        assert_eq!(queue.next_due(), Some(s(5)));
    }
}
