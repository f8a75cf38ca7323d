//! Verdicts on endpoints, and the reasons of every collection.

use std::time::Duration;

/// The verdict on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in order.
    Keep,
    /// It is in order; judge it again after this long, even if no object changes.
    Wait(Duration),
    /// Its holder is gone, and its addresses stay reserved.
    Unbind(Reason),
    /// It is deleted, and its addresses become free.
    Release(Reason),
}

impl Verdict {
    /// Returns true where the verdict asks for a write.
    pub fn acts(self) -> bool {
        matches!(self, Self::Unbind(_) | Self::Release(_))
    }
}

/// The reason why an endpoint or a claim is collected, or created.
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
    /// The StatefulSet is gone or being deleted, or another has its name.
    StatefulSetGone,
    /// The StatefulSet has no such ordinal any more.
    ScaledDown,
    /// The StatefulSet has no such ordinal any more, and the retain time is over.
    RetainOver,
    /// No endpoint lists the claim's address.
    Unlisted,
    /// The claim's cooldown after its release is over.
    CooldownOver,
    /// An endpoint lists the address, and its claim does not exist.
    ClaimMissing,
    /// An endpoint lists the address, and another endpoint has its claim.
    AddressTaken,
    /// Another IPAM allocated the address.
    Imported,
}

impl Reason {
    /// Returns the name in logs, events, metrics and histories.
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
