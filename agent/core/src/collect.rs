//! Garbage collection: which endpoints and claims are leaked. An endpoint is valid until it is proven leaked; missing
//! data counts as in order.
//!
//! A verdict is reached twice: first from the watches' caches, then from live reads. Only then the collector writes, and
//! every write fails if its object changed since.
//!
//! | pod of that name | StatefulSet | verdict |
//! |---|---|---|
//! | the endpoint's, running, or terminating and still bound | any | keep |
//! | the endpoint's, finished and still bound: containers may still run | any | keep for its grace period |
//! | the endpoint's, terminating past its grace period, or on a node that is gone | as if the pod were gone | unbind or release |
//! | none, or a new one | has the ordinal | keep; unbind a holder whose pod is gone |
//! | none, or one of another owner | gone, or another | release |
//! | none | scaled below the ordinal | release; with `retain`, once that time is over |
//! | none, finished or another | the endpoint has none | release |

mod claim;
mod facts;
mod first_seen;
mod policy;
mod remaining;
#[cfg(test)]
mod tests;
mod verdict;

use std::time::Duration;

use crate::id::ordinal;

pub use claim::{ClaimFacts, ClaimVerdict, Cooldowns, judge_claim};
pub use facts::{EndpointFacts, NodeFacts, PodFacts, SetFacts, SetKey, Termination};
pub use first_seen::FirstSeen;
pub use policy::{OnTimeout, Policy};
use remaining::remaining;
pub use verdict::{Reason, Verdict};

/// Returns the verdict on an endpoint.
pub fn judge(
    endpoint: &EndpointFacts<'_>,
    pod: Option<PodFacts<'_>>,
    set: Option<SetFacts<'_>>,
    policy: &Policy,
) -> Verdict {
    // A terminating pod whose sandbox is gone uses no address any more; its kubelet may need ten more seconds to confirm
    // the deletion.
    let own = |pod: &PodFacts<'_>| endpoint.pod_uid.is_empty() || pod.uid == endpoint.pod_uid;
    let pod = pod.filter(|pod| !(own(pod) && pod.terminating.is_some() && !endpoint.bound));
    let (pod, why) = match pod {
        None => (None, Reason::PodGone),
        Some(pod) if !own(&pod) => (Some(pod), Reason::PodReplaced),
        Some(pod) => match (finished(&pod, endpoint.bound, policy), past_grace(&pod, endpoint.set.is_some(), policy)) {
            (Deadline::Passed(why), _) => (Some(pod), why),
            (_, Deadline::Passed(_)) if !endpoint.bound => return Verdict::Keep,
            (_, Deadline::Passed(why)) => (None, why),
            (Deadline::In(one), Deadline::In(other)) => return Verdict::Wait(one.min(other)),
            (Deadline::In(wait), Deadline::None) | (Deadline::None, Deadline::In(wait)) => return Verdict::Wait(wait),
            (Deadline::None, Deadline::None) => return Verdict::Keep,
        },
    };
    let Some(key) = endpoint.set else { return Verdict::Release(why) };
    let Some(set) = set.filter(|set| !set.deleting && key.uid.is_none_or(|uid| uid == set.uid)) else {
        return Verdict::Release(Reason::StatefulSetGone);
    };
    // A pod of that name may be the set's own, terminating or just created: only its absence is proof.
    if pod.is_some() {
        return Verdict::Keep;
    }
    if ordinal(endpoint.name, key.name).is_some_and(|ordinal| !set.has_ordinal(ordinal)) {
        return scaled_down(endpoint, why);
    }
    let timeout = matches!(why, Reason::TerminatingTimeout | Reason::NodeGone);
    match endpoint.bound {
        true if timeout && policy.on_timeout == OnTimeout::Release => Verdict::Release(why),
        true => Verdict::Unbind(why),
        false => Verdict::Keep,
    }
}

/// Returns the verdict on an endpoint whose ordinal and pod are gone.
fn scaled_down(endpoint: &EndpointFacts<'_>, why: Reason) -> Verdict {
    match endpoint.retain {
        None => Verdict::Release(Reason::ScaledDown),
        Some(_) if endpoint.bound => Verdict::Unbind(why),
        Some(retain) => match remaining(retain, endpoint.vacant_for) {
            Some(wait) => Verdict::Wait(wait),
            None => Verdict::Release(Reason::RetainOver),
        },
    }
}

/// The time at which a pod loses its addresses.
enum Deadline {
    /// It keeps them.
    None,
    In(Duration),
    Passed(Reason),
}

/// Returns when a finished pod's addresses are no longer used. An unbound endpoint's sandbox is gone; in a bound one's,
/// containers may run for as long as a termination may take.
fn finished(pod: &PodFacts<'_>, bound: bool, policy: &Policy) -> Deadline {
    match pod.finished {
        None => Deadline::None,
        Some(_) if !bound => Deadline::Passed(Reason::PodFinished),
        Some(termination) => remaining(termination.grace.saturating_add(policy.delay), termination.seen_for)
            .map_or(Deadline::Passed(Reason::PodFinished), Deadline::In),
    }
}

/// Returns when a pod that terminates, or whose node is gone, counts as gone itself.
fn past_grace(pod: &PodFacts<'_>, sticky: bool, policy: &Policy) -> Deadline {
    if let NodeFacts::Gone(gone_for) = pod.node {
        return remaining(policy.delay, gone_for).map_or(Deadline::Passed(Reason::NodeGone), Deadline::In);
    }
    let Some(terminating) = pod.terminating else { return Deadline::None };
    let on_such_node = match pod.node {
        NodeFacts::Ready => policy.stateless_on_ready_node,
        _ => policy.stateless_on_not_ready_node,
    };
    if !policy.terminating || (!sticky && !on_such_node) {
        return Deadline::None;
    }
    let allowed = terminating.grace.saturating_add(policy.delay);
    remaining(allowed, terminating.seen_for).map_or(Deadline::Passed(Reason::TerminatingTimeout), Deadline::In)
}
