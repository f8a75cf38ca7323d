//! The records of addresses: ADD and DEL as the API server sees them, without any interface.
//!
//! ```text
//! watches ─▶ PoolCache ──────────────────┐ hints
//!                                        ▼
//! BindRequest ─▶ BindSpec ─▶ kept addresses + Allocator ─▶ next endpoint ─▶ write ∥ verify claims ─▶ IpAllocation
//!   pod, namespace,  │         eligible pools ─▶ candidates ─▶ acquire claims            │
//!   CNI conf         │                                                                   └ error: unbind, release
//!                    └ pool selection, static IPs, guard mode, routes
//!
//! UnbindRequest ─▶ endpoint names the container? ─▶ sticky: reserve │ else: remove interface or endpoint ─▶ UnbindOutcome
//! ```
//!
//! The API server decides each step: a claim is acquired by creating it, an endpoint is written at the resourceVersion that
//! was read. On a conflict the verb reads again and starts over, a bounded number of times.

#![forbid(unsafe_code)]

mod allocator;
mod assigned_address;
mod bind;
mod bind_progress;
mod bind_spec;
mod candidates;
mod eligibility;
mod endpoint_record;
mod error;
mod ipam;
mod metrics;
mod pool_cache;
mod pool_selection;
mod pool_watch;
mod recently_used;
mod records;
mod requests;
mod static_ips;
mod unbind;

#[cfg(test)]
mod mock_api_server;

pub use eligibility::NoPool;
pub use error::{ErrorClass, IpamError, Shortage};
pub use ipam::{Ipam, Settings};
pub use metrics::IpamMetrics;
pub use pool_cache::{CachedPool, PoolCache};
pub use records::{HolderLocation, PodRecord, SANDBOX_DIED};
pub use requests::{BindRequest, IpAllocation, UnbindOutcome, UnbindRequest};
