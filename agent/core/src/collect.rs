//! What is leaked, decided from what is known. Valid until proven leaked: whatever is not known counts as in order.
//!
//! A verdict is reached twice: first from the watches' caches, then from live reads; only then is anything written, and
//! every write fails if its object changed since.
//!
//! | pod of that name | StatefulSet | verdict |
//! |---|---|---|
//! | the endpoint's, running, or terminating and still bound | any | keep |
//! | the endpoint's, finished and still bound: containers may still run | any | keep for its grace period |
//! | the endpoint's, past its grace: terminating past its grace period, or on a node that is gone | as if the pod were gone | unbind or release |
//! | none, or a new one | owns the ordinal | keep; unbind a holder whose pod is gone |
//! | none, or a stranger | gone, or another | release |
//! | none | scaled below | release; with `retain`, once that is over |
//! | none, finished or another | not one of a StatefulSet | release |

mod claim;
mod first_seen;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Deserialize;

use crate::id::ordinal;

pub use claim::{ClaimFacts, ClaimVerdict, Cooldowns, judge_claim};
pub use first_seen::FirstSeen;

/// What an endpoint's record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointFacts<'a> {
    /// The endpoint's name, which is its pod's.
    pub name: &'a str,
    /// The pod that last held it. Empty where the record does not say: then it may be any of that name.
    pub pod_uid: &'a str,
    /// The StatefulSet it is reserved for. None: its addresses go with its pod.
    pub set: Option<SetKey<'a>>,
    /// Whether a container holds it.
    pub bound: bool,
    /// How long it is kept after its ordinal is scaled away.
    pub retain: Option<Duration>,
    /// For how long no container has held it.
    pub vacant_for: Duration,
}

/// The StatefulSet that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetKey<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UID; unknown in records that another tool made.
    pub uid: Option<&'a str>,
}

/// The pod that has the endpoint's name now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodFacts<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// Whether it has succeeded or failed. Kubelets have said so of pods whose containers still ran.
    pub finished: Option<Termination>,
    /// Whether it is being deleted.
    pub terminating: Option<Termination>,
    /// What is known of its node.
    pub node: NodeFacts,
}

/// A pod's end. Times are measured by the observer's own clock that only runs forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// For how long it has been seen so.
    pub seen_for: Duration,
    /// How long it may take.
    pub grace: Duration,
}

/// A pod's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeFacts {
    /// Its kubelet reports.
    Ready,
    /// Its kubelet does not, or says that it is not ready.
    NotReady,
    /// Its object has been gone for this long.
    Gone(Duration),
    /// The pod has none yet.
    None,
}

/// The StatefulSet that has the record's owner name now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetFacts<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// `spec.ordinals.start`.
    pub start: i32,
    /// `spec.replicas`.
    pub replicas: i32,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// What an operator decides about pods that should be gone and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether pods that terminate past their grace period lose their addresses at all.
    pub terminating: bool,
    /// Whether those of no StatefulSet do on a node that is ready.
    pub stateless_on_ready_node: bool,
    /// Whether those of no StatefulSet do on a node that is not.
    pub stateless_on_not_ready_node: bool,
    /// How long to wait after the grace period, and after a node's object has gone.
    pub delay: Duration,
    /// What becomes of the addresses of a StatefulSet's pod.
    pub on_timeout: OnTimeout,
}

/// What becomes of the addresses of a StatefulSet's pod that terminates past its grace period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnTimeout {
    /// The container loses them; they stay reserved.
    #[default]
    Unbind,
    /// They become free.
    Release,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            terminating: true,
            stateless_on_ready_node: true,
            stateless_on_not_ready_node: true,
            delay: Duration::from_secs(5),
            on_timeout: OnTimeout::Unbind,
        }
    }
}

/// What to do with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in order.
    Keep,
    /// It is in order for this long, if nothing happens; then look again.
    Wait(Duration),
    /// Its holder is gone and its addresses stay.
    Unbind(Reason),
    /// It and its addresses go.
    Release(Reason),
}

impl Verdict {
    /// Whether there is something to do now.
    pub fn acts(self) -> bool {
        matches!(self, Self::Unbind(_) | Self::Release(_))
    }
}

/// Why an endpoint or a claim is collected, or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// There is no pod of that name.
    PodGone,
    /// Another pod has the name.
    PodReplaced,
    /// The pod has succeeded or failed.
    PodFinished,
    /// The pod terminates past its grace period.
    TerminatingTimeout,
    /// The pod's node is gone.
    NodeGone,
    /// The StatefulSet is gone or going, or another has its name.
    StatefulSetGone,
    /// The StatefulSet has no such ordinal any more.
    ScaledDown,
    /// The StatefulSet has no such ordinal any more, and the time for which it was retained is over.
    RetainOver,
    /// No endpoint lists the claim's address.
    Unlisted,
    /// The claim's rest after its release is over.
    CooldownOver,
    /// An endpoint lists the address, and its claim is not there (any more).
    ClaimMissing,
    /// An endpoint lists the address, and another has its claim.
    AddressTaken,
    /// Another IPAM gave the address out.
    Imported,
}

impl Reason {
    /// The name in logs, events, metrics and histories.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodGone => "PodGone",
            Self::PodReplaced => "PodReplaced",
            Self::PodFinished => "PodFinished",
            Self::TerminatingTimeout => "TerminatingTimeout",
            Self::NodeGone => "NodeGone",
            Self::StatefulSetGone => "StatefulSetGone",
            Self::ScaledDown => "ScaledDown",
            Self::RetainOver => "RetainOver",
            Self::Unlisted => "Unlisted",
            Self::CooldownOver => "RestOver",
            Self::ClaimMissing => "ClaimMissing",
            Self::AddressTaken => "AddressTaken",
            Self::Imported => "Imported",
        }
    }
}

/// Judges an endpoint.
pub fn judge(
    endpoint: &EndpointFacts<'_>,
    pod: Option<PodFacts<'_>>,
    set: Option<SetFacts<'_>>,
    policy: &Policy,
) -> Verdict {
    // A pod on its way out whose sandbox the runtime has taken down uses nothing any more; a kubelet may need ten more
    // seconds until the API server forgets it.
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
    // While a pod has the name, it may be the set's own, on its way out or in: only its absence proves anything.
    if pod.is_some() {
        return Verdict::Keep;
    }
    if ordinal(endpoint.name, key.name).is_some_and(|ordinal| !owns(&set, ordinal)) {
        return scaled_down(endpoint, why);
    }
    let timeout = matches!(why, Reason::TerminatingTimeout | Reason::NodeGone);
    match endpoint.bound {
        true if timeout && policy.on_timeout == OnTimeout::Release => Verdict::Release(why),
        true => Verdict::Unbind(why),
        false => Verdict::Keep,
    }
}

/// The ordinal is gone, and so is its pod.
fn scaled_down(endpoint: &EndpointFacts<'_>, why: Reason) -> Verdict {
    match endpoint.retain {
        None => Verdict::Release(Reason::ScaledDown),
        Some(_) if endpoint.bound => Verdict::Unbind(why),
        Some(retain) => match left(retain, endpoint.vacant_for) {
            Some(wait) => Verdict::Wait(wait),
            None => Verdict::Release(Reason::RetainOver),
        },
    }
}

enum Deadline {
    None,
    In(Duration),
    Passed(Reason),
}

/// Whether the endpoint's own pod has finished and uses nothing any more. A sandbox that the runtime has taken down is
/// unbound; one that it has not may have containers, for as long as they may take to end.
fn finished(pod: &PodFacts<'_>, bound: bool, policy: &Policy) -> Deadline {
    match pod.finished {
        None => Deadline::None,
        Some(_) if !bound => Deadline::Passed(Reason::PodFinished),
        Some(ending) => left(ending.grace.saturating_add(policy.delay), ending.seen_for)
            .map_or(Deadline::Passed(Reason::PodFinished), Deadline::In),
    }
}

/// Whether the endpoint's own pod should be gone by now.
fn past_grace(pod: &PodFacts<'_>, sticky: bool, policy: &Policy) -> Deadline {
    if let NodeFacts::Gone(gone_for) = pod.node {
        return left(policy.delay, gone_for).map_or(Deadline::Passed(Reason::NodeGone), Deadline::In);
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
    left(allowed, terminating.seen_for).map_or(Deadline::Passed(Reason::TerminatingTimeout), Deadline::In)
}

/// What is left of a time; none once it is over.
fn left(whole: Duration, over: Duration) -> Option<Duration> {
    whole.checked_sub(over).filter(|left| !left.is_zero())
}

fn owns(set: &SetFacts<'_>, ordinal: i32) -> bool {
    (set.start..set.start.saturating_add(set.replicas)).contains(&ordinal)
}
