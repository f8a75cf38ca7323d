//! holdfast's Kubernetes API: the kinds that users see, and the one store that writes them.
//!
//! ```text
//! ippool, endpoint, reserved, claim   the kinds, as Rust types; `crds` turns them into manifests
//! annotations, labels, owner          what is read from, and written on, pods and namespaces
//! store                               reads and compare-and-swap writes; nothing else writes to the API server
//! event_recorder                      Kubernetes events: a bounded queue and the task that writes it
//! ```

#![forbid(unsafe_code)]

pub mod annotations;
pub mod claim;
pub mod crds;
pub mod endpoint;
pub mod event_recorder;
pub mod ippool;
pub mod labels;
pub mod owner;
pub mod reserved;
pub mod retain;
pub mod store;

/// The API group of the kinds that Spiderpool's users know.
pub const GROUP: &str = "spiderpool.spidernet.io";

/// The finalizer of the kinds that Spiderpool's users know.
pub const FINALIZER: &str = "spiderpool.spidernet.io";
