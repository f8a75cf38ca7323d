//! The facts that a verdict is based on, as the collector saw them.

use std::time::Duration;

/// An endpoint's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointFacts<'a> {
    /// The endpoint's name, which is its pod's.
    pub name: &'a str,
    /// The UID of the pod that last held it. Empty in records that name no pod: any pod of that name may be it.
    pub pod_uid: &'a str,
    /// The StatefulSet that the addresses are reserved for. None: they are released with their pod.
    pub set: Option<SetKey<'a>>,
    /// True while a container holds the addresses.
    pub bound: bool,
    /// The time for which the addresses are kept after their ordinal is scaled away.
    pub retain: Option<Duration>,
    /// The time since a container last held the addresses.
    pub vacant_for: Duration,
}

/// The StatefulSet that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetKey<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UID; none in records that another tool wrote.
    pub uid: Option<&'a str>,
}

/// The pod that has the endpoint's name now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodFacts<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// Its end, once its phase is `Succeeded` or `Failed`. Kubelets have reported that of pods whose containers still ran.
    pub finished: Option<Termination>,
    /// Its end, once it has a deletion timestamp.
    pub terminating: Option<Termination>,
    /// The state of its node.
    pub node: NodeFacts,
}

/// The end of a pod. Times are measured by the observer's own monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// The time since the observer first saw it.
    pub seen_for: Duration,
    /// The grace period.
    pub grace: Duration,
}

/// The state of a pod's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeFacts {
    /// Its kubelet reports that it is ready.
    Ready,
    /// Its kubelet does not report, or reports that it is not ready.
    NotReady,
    /// Its object has been gone for this long.
    Gone(Duration),
    /// The pod is not scheduled yet.
    None,
}

/// The StatefulSet that has the name of the record's owner now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetFacts<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// `spec.ordinals.start`.
    pub start: i32,
    /// `spec.replicas`.
    pub replicas: i32,
    /// True once it has a deletion timestamp.
    pub deleting: bool,
}

impl SetFacts<'_> {
    pub(super) fn has_ordinal(&self, ordinal: i32) -> bool {
        (self.start..self.start.saturating_add(self.replicas)).contains(&ordinal)
    }
}
