//! holdfast's Kubernetes API: the kinds that users see, and the one store that writes them.
//!
//! ```text
//! pod, namespace ──▶ annotations, labels, owner, retain ──▶ callers in ipam, node, controller
//! manifests      ◀── crds ◀── ippool, endpoint, reserved, claim (the kinds, as Rust types)
//! callers        ──▶ store ──▶ API server: live reads, creates, compare-and-swap; `store::WriteGate` stops a former leader
//! callers        ──▶ event_recorder ──▶ bounded queue ──▶ one task ──▶ events.k8s.io
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
