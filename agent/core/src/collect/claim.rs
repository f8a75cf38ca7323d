//! The collection of claims that no endpoint lists, and of claims whose cooldown is over.

use std::time::Duration;

use super::remaining::remaining;

/// The cooldowns of claims. Measured by the observer's own monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooldowns {
    /// The time for which a claim may exist that no endpoint lists: an ADD may be between its two writes.
    pub unlisted: Duration,
    /// The same where there is no pod of the endpoint's name, so that no ADD under way can succeed.
    pub orphaned: Duration,
    /// The time for which a released address is not given to another pod.
    pub released: Duration,
}

impl Default for Cooldowns {
    fn default() -> Self {
        Self { unlisted: Duration::from_secs(60), orphaned: Duration::from_secs(5), released: Duration::from_secs(30) }
    }
}

/// A claim as the collector saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimFacts {
    /// True where it is marked as released.
    pub released: bool,
    /// True where its endpoint lists its address.
    pub listed: bool,
    /// True where there is a pod of the endpoint's name.
    pub pod: bool,
    /// The time for which it has been seen in this state.
    pub seen_for: Duration,
}

/// The verdict on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimVerdict {
    /// It is in order.
    Keep,
    /// It is in order; judge it again after this long.
    Wait(Duration),
    /// Mark it as released.
    Mark,
    /// Read its endpoint once more, then delete or unmark it.
    Finish,
}

/// Returns the verdict on a claim.
pub fn judge_claim(claim: &ClaimFacts, cooldowns: &Cooldowns) -> ClaimVerdict {
    let (cooldown, after) = match (claim.released, claim.listed) {
        (false, true) => return ClaimVerdict::Keep,
        // The endpoint lists the address of a marked claim again: the mark is removed at once.
        (true, true) => return ClaimVerdict::Finish,
        (false, false) if claim.pod => (cooldowns.unlisted, ClaimVerdict::Mark),
        (false, false) => (cooldowns.orphaned.min(cooldowns.unlisted), ClaimVerdict::Mark),
        (true, false) => (cooldowns.released, ClaimVerdict::Finish),
    };
    remaining(cooldown, claim.seen_for).map_or(after, ClaimVerdict::Wait)
}
