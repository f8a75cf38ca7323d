//! The reasons why a pod has no address, and the classes that callers tell apart.

use std::{fmt, net::IpAddr};

use holdfast_api::{annotations::AnnotationError, store::StoreError};
use holdfast_core::{
    id::{IfName, PodName},
    pool::Family,
};

use crate::eligibility::NoPool;

/// A family of which the pod's pools have no address left.
#[derive(Debug)]
pub struct Shortage {
    /// The family.
    pub family: Family,
    /// A sentence for each pool, with its size and holders.
    pub pools: Vec<String>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no free {} address: {}", self.family, self.pools.join("; "))
    }
}

/// Returns the reasons as one text.
fn joined<T: ToString>(reasons: &[T]) -> String {
    reasons.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

/// The reason why an address could not be bound or unbound.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The API server refused a request or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API server has no such pod.
    #[error("pod {0} does not exist on the API server")]
    NoPod(PodName),
    /// The request is for a pod that a newer one of the same name has replaced.
    #[error(
        "the sandbox is for pod {pod} with UID {asked}, but the API server's current pod of that name has UID {current}"
    )]
    StalePod {
        /// The pod's name.
        pod: PodName,
        /// The UID in the request.
        asked: String,
        /// The UID of the API server's pod.
        current: String,
    },
    /// The pod runs on another node.
    #[error("pod {pod} is on node {node:?}, not here on {here}")]
    OtherNode {
        /// The pod's name.
        pod: PodName,
        /// Its node.
        node: String,
        /// This node.
        here: String,
    },
    /// An annotation cannot be used.
    #[error("pod {pod}: {source}")]
    Annotation {
        /// The pod's name.
        pod: PodName,
        /// The annotation and its error.
        source: AnnotationError,
    },
    /// The pod may use no pool of a family.
    #[error("pod {pod}, interface {interface}: {}", joined(.reasons))]
    NoPool {
        /// The pod's name.
        pod: PodName,
        /// The interface.
        interface: IfName,
        /// For each such family, its pools and the reason against each.
        reasons: Vec<NoPool>,
    },
    /// No pool is named and none is marked `default`.
    #[error(
        "pod {pod}, interface {interface}: no pool is named by an annotation or the CNI configuration, and none is marked \
         default: name one in the annotation ipam.spidernet.io/ippool or set spec.default on a SpiderIPPool"
    )]
    NoDefault {
        /// The pod's name.
        pod: PodName,
        /// The interface.
        interface: IfName,
    },
    /// Every address of every pool that the pod may use is in use.
    #[error("pod {pod}, interface {interface}: {}", joined(.shortages))]
    Exhausted {
        /// The pod's name.
        pod: PodName,
        /// The interface.
        interface: IfName,
        /// Each family that has no address left.
        shortages: Vec<Shortage>,
    },
    /// The static address of the pod's ordinal is not available.
    #[error("pod {pod}: the annotation ipam.spidernet.io/static-ips fixes {address} for it, but {why}")]
    Static {
        /// The pod's name.
        pod: PodName,
        /// The address.
        address: IpAddr,
        /// Its holder, or the reason why no pool gives it out.
        why: String,
    },
    /// Others kept changing the same objects.
    #[error("pod {0}: its endpoint and claims kept changing; trying again later helps")]
    Contended(PodName),
}

/// The classes of errors that callers tell apart: metrics count by them, and CNI error codes follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The API server refused a request or did not answer. Trying again helps.
    ApiServer,
    /// Others kept changing the same objects. Trying again helps.
    Contended,
    /// The pod does not exist.
    PodNotFound,
    /// The request is for an earlier pod of that name, or for a pod of another node.
    Stale,
    /// The user's mistake: an annotation cannot be used.
    InvalidAnnotation,
    /// The user's mistake: the pod may use no pool.
    NoPool,
    /// The static address of the pod's ordinal is in use, reserved, or in none of its pools.
    StaticIpUnavailable,
    /// Every address of every pool that the pod may use is in use.
    Exhausted,
}

impl IpamError {
    /// Returns the error's class.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store(_) => ErrorClass::ApiServer,
            Self::Contended(_) => ErrorClass::Contended,
            Self::NoPod(_) => ErrorClass::PodNotFound,
            Self::StalePod { .. } | Self::OtherNode { .. } => ErrorClass::Stale,
            Self::Annotation { .. } => ErrorClass::InvalidAnnotation,
            Self::NoPool { .. } | Self::NoDefault { .. } => ErrorClass::NoPool,
            Self::Static { .. } => ErrorClass::StaticIpUnavailable,
            Self::Exhausted { .. } => ErrorClass::Exhausted,
        }
    }
}
