//! Leader election over a shared lease. A candidate judges the lease by the times at which it saw it change, on its own
//! monotonic clock. Wall clocks are not compared: a lease counts as fresh for as long as it keeps changing.
//!
//! | the lease | and | step |
//! |---|---|---|
//! | does not exist | | create it |
//! | is this candidate's | | renew it |
//! | has no holder | | acquire it |
//! | is another's | changed within its duration | wait |
//! | is another's | has not changed for its duration | acquire it |
//!
//! Every write is a compare-and-swap: of two candidates that step at the same time, one loses and reads again.
//! A leader whose last renewal is older than the renewal deadline no longer leads. The deadline is shorter than the
//! lease's duration, so a leader stops before another candidate can start.

use std::time::Duration;

/// The times of a lease, as in `client-go`'s leader election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimings {
    /// The time for which a lease that does not change belongs to its holder.
    pub duration: Duration,
    /// The time for which a leader leads after its last renewal.
    pub deadline: Duration,
    /// The time between two reads of the lease.
    pub retry: Duration,
}

/// Lease timings that are not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lease duration must exceed the renewal deadline, and the deadline the retry period, but they are {}, {} and {} \
     seconds", .0.duration.as_secs_f64(), .0.deadline.as_secs_f64(), .0.retry.as_secs_f64()
)]
pub struct LeaseTimingsError(LeaseTimings);

impl LeaseTimings {
    /// Checks that a leader stops before another starts, and that one failed renewal does not stop it.
    pub fn check(self) -> Result<Self, LeaseTimingsError> {
        let ordered = self.duration > self.deadline && self.deadline > self.retry && !self.retry.is_zero();
        if ordered { Ok(self) } else { Err(LeaseTimingsError(self)) }
    }
}

/// The lease as it was just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFacts<'a> {
    /// The holder's identity; empty where the lease was released.
    pub holder: &'a str,
    /// Its resourceVersion, which changes with every write.
    pub version: &'a str,
    /// Its duration, as its holder wrote it.
    pub duration: Duration,
}

/// The next step of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Create the lease.
    Create,
    /// Write the lease to renew it.
    Renew,
    /// Write the lease to take it from its former holder.
    Acquire,
    /// Leave the lease to its holder.
    Wait,
}

/// One candidate's view of the election. Times are since any fixed moment of the candidate's own clock.
#[derive(Debug, Clone)]
pub struct Election {
    identity: String,
    timings: LeaseTimings,
    /// The version that was last seen, and the time at which it was first seen.
    seen: Option<(String, Duration)>,
    holder: String,
    leads_until: Option<Duration>,
}

impl Election {
    /// Returns a candidate that has not read the lease yet. No two candidates may have the same identity.
    pub fn new(identity: impl Into<String>, timings: LeaseTimings) -> Self {
        Self { identity: identity.into(), timings, seen: None, holder: String::new(), leads_until: None }
    }

    /// Returns the next step after the lease was read at `now`; `lease` is none where it does not exist.
    pub fn step(&mut self, lease: Option<LeaseFacts<'_>>, now: Duration) -> Step {
        let Some(lease) = lease else {
            self.seen = None;
            self.holder.clear();
            return Step::Create;
        };
        lease.holder.clone_into(&mut self.holder);
        let first_seen = match &self.seen {
            Some((version, at)) if version == lease.version => *at,
            _ => now,
        };
        self.seen = Some((lease.version.to_owned(), first_seen));
        if lease.holder == self.identity {
            return Step::Renew;
        }
        self.leads_until = None;
        let expired = now.saturating_sub(first_seen) >= lease.duration;
        if lease.holder.is_empty() || expired { Step::Acquire } else { Step::Wait }
    }

    /// Records that a request of this candidate, sent at `sent`, wrote the lease. The time of sending counts: the answer
    /// may have been delayed.
    pub fn record_write(&mut self, version: &str, sent: Duration) {
        self.holder.clone_from(&self.identity);
        self.seen = Some((version.to_owned(), sent));
        self.leads_until = Some(sent + self.timings.deadline);
    }

    /// Returns the time until which this candidate leads; none while it does not.
    pub fn leads_until(&self) -> Option<Duration> {
        self.leads_until
    }

    /// Returns the identity of the last known holder; none before the first read, and after a release.
    pub fn holder(&self) -> Option<&str> {
        Some(self.holder.as_str()).filter(|holder| !holder.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMINGS: LeaseTimings = LeaseTimings {
        duration: Duration::from_secs(6),
        deadline: Duration::from_secs(4),
        retry: Duration::from_secs(2),
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease<'a>(holder: &'a str, version: &'a str) -> LeaseFacts<'a> {
        LeaseFacts { holder, version, duration: s(6) }
    }

    #[test]
    fn a_lease_that_keeps_changing_is_not_acquired() {
        let mut b = Election::new("b", TIMINGS);
        for second in 0..100 {
            assert_eq!(b.step(Some(lease("a", &second.to_string())), s(second)), Step::Wait);
        }
        assert_eq!(b.holder(), Some("a"));
    }

    #[test]
    fn a_lease_that_does_not_change_is_acquired_after_its_duration() {
        let mut b = Election::new("b", TIMINGS);
        assert_eq!(b.step(Some(lease("a", "1")), s(10)), Step::Wait);
        assert_eq!(b.step(Some(lease("a", "1")), s(15)), Step::Wait);
        assert_eq!(b.step(Some(lease("a", "1")), s(16)), Step::Acquire);
        b.record_write("2", s(16));
        assert_eq!(b.leads_until(), Some(s(20)));
        assert_eq!(b.step(Some(lease("b", "2")), s(18)), Step::Renew);
        assert_eq!(b.step(Some(lease("a", "3")), s(19)), Step::Wait);
        assert_eq!(b.leads_until(), None);
    }

    #[test]
    fn a_released_lease_is_acquired_at_once() {
        let mut b = Election::new("b", TIMINGS);
        assert_eq!(b.step(None, s(0)), Step::Create);
        assert_eq!(b.step(Some(lease("", "1")), s(0)), Step::Acquire);
    }

    #[test]
    fn timings_that_let_two_lead_are_refused() {
        assert!(TIMINGS.check().is_ok());
        assert!(LeaseTimings { deadline: s(6), ..TIMINGS }.check().is_err());
        assert!(LeaseTimings { retry: s(4), ..TIMINGS }.check().is_err());
        assert!(LeaseTimings { retry: s(0), ..TIMINGS }.check().unwrap_err().to_string().contains("0 seconds"));
    }

    proptest! {
        /// Three candidates whose clocks start at any time, each step split into a read and a write that may be late:
        /// two never lead at once.
        #[test]
        fn two_never_lead(
            offsets in prop::array::uniform3(0u64..100_000),
            moves in prop::collection::vec((0usize..3, 0u64..3000), 1..300),
        ) {
            let names = ["a", "b", "c"];
            let mut candidates = names.map(|name| Election::new(name, TIMINGS));
            let mut writes: [Option<(u64, u64)>; 3] = [None; 3];
            let (mut holder, mut version, mut time) = ("", 0u64, 0u64);
            for (who, pause) in moves {
                time += pause;
                let clock = |time: u64, who: usize| Duration::from_millis(time + offsets[who]);
                match writes[who].take() {
                    Some((read, sent)) if read == version => {
                        (holder, version) = (names[who], version + 1);
                        candidates[who].record_write(&version.to_string(), clock(sent, who));
                    }
                    Some(_) => {}
                    None => {
                        let step = candidates[who].step(Some(lease(holder, &version.to_string())), clock(time, who));
                        writes[who] = (step != Step::Wait).then_some((version, time));
                    }
                }
                let leads = |who: &usize| candidates[*who].leads_until().is_some_and(|until| until > clock(time, *who));
                prop_assert!((0..3).filter(leads).count() <= 1, "at {time}");
            }
        }
    }
}
