//! Claims that no endpoint lists, and claims whose rest is over.

use std::time::Duration;

use super::left;

/// How long things rest. Measured by the observer's own clock that only runs forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooldowns {
    /// How long a claim may stand that no endpoint lists: an ADD between its two writes is in order.
    pub unlisted: Duration,
    /// The same where there is no pod of the endpoint's name, so that no ADD can be under way that succeeds.
    pub orphaned: Duration,
    /// How long a released address stays out of use.
    pub released: Duration,
}

impl Default for Cooldowns {
    fn default() -> Self {
        Self { unlisted: Duration::from_secs(60), orphaned: Duration::from_secs(5), released: Duration::from_secs(30) }
    }
}

/// A claim as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimFacts {
    /// Whether it is marked as released.
    pub released: bool,
    /// Whether its endpoint lists its address.
    pub listed: bool,
    /// Whether there is a pod of the endpoint's name.
    pub pod: bool,
    /// For how long it has been seen just so.
    pub seen_for: Duration,
}

/// What to do with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimVerdict {
    /// It is in order.
    Keep,
    /// It is in order for this long; then look again.
    Wait(Duration),
    /// Mark it as released.
    Mark,
    /// Look at its endpoint once more, then delete or unmark it.
    Finish,
}

/// Judges a claim.
pub fn judge_claim(claim: &ClaimFacts, cooldowns: &Cooldowns) -> ClaimVerdict {
    let (rest, after) = match (claim.released, claim.listed) {
        (false, true) => return ClaimVerdict::Keep,
        // Marked and listed again: the mark goes at once.
        (true, true) => return ClaimVerdict::Finish,
        (false, false) if claim.pod => (cooldowns.unlisted, ClaimVerdict::Mark),
        (false, false) => (cooldowns.orphaned.min(cooldowns.unlisted), ClaimVerdict::Mark),
        (true, false) => (cooldowns.released, ClaimVerdict::Finish),
    };
    left(rest, claim.seen_for).map_or(after, ClaimVerdict::Wait)
}
