//! The controller: collects leaked addresses and writes the pools' status.
//!
//! ```text
//! Lease ─▶ leader_election: one replica leads; the store writes for no other
//! watches (pools, endpoints, claims, pods, StatefulSets, nodes) ─▶ reflectors ─▶ pending_changes
//!   └▶ reconcile: change_tracker, index ─▶ work list ─▶
//!        import          records of another IPAM ─▶ claims, endpoints; once, before anything else
//!        missing_claims  listed without a claim ─▶ live read ─▶ create the claim
//!        endpoint_gc     judge from the caches ─▶ judge from live reads ─▶ unbind │ release
//!        claim_gc        unlisted for a while ─▶ mark; cooldown over ─▶ delete
//!        ip_version      spec.ipVersion, where a pool names none
//!        finalizers      a pool stays until none of its addresses is in use
//!        pool_status     claims × endpoints ─▶ each pool's status, where it differs
//!      delay_queue ◀─ objects to look at again later
//! decisions ─▶ outcome_recorder: log, Kubernetes event, metric
//! ```
//!
//! A reconciliation works on the objects that changed and on those that are due in the delay queue. A full scan, at an
//! interval and with each new leader, works on all objects, and so repairs what a lost event or a manual edit left wrong.
//!
//! Files import downwards only: `controller` ▶ `reconcile` ▶ the jobs ▶ `context` ▶ `reflectors`, `outcome_recorder`,
//! `heartbeat`.

#![forbid(unsafe_code)]

mod assessment;
mod change_tracker;
mod claim_gc;
mod conditions;
mod context;
mod controller;
mod delay_queue;
mod endpoint_facts;
mod endpoint_gc;
mod finalizers;
mod heartbeat;
mod import;
mod index;
mod ip_version;
mod leader_election;
mod metrics;
mod missing_claims;
mod outcome_recorder;
mod pending_changes;
mod pool_status;
mod reconcile;
mod reflectors;
mod settings;

pub use controller::Controller;
pub use heartbeat::Heartbeat;
pub use leader_election::Leadership;
pub use metrics::ControllerMetrics;
pub use settings::Settings;
