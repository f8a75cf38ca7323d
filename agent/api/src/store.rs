//! The only place that writes to the API server. Every write is a create or a compare-and-swap: a replace or a patch at
//! the resourceVersion that was read, or a delete with UID and resourceVersion as preconditions. No read is from a cache,
//! except for [`Store::pods_on`].
//!
//! ```text
//! first ADD    create claim ─▶ write endpoint ─▶ verify claim (read again)
//! sticky ADD   write endpoint ∥ verify claim
//! release      drop from endpoint ─▶ read claim, then endpoint ─▶ mark claim ─▶ (cooldown) ─▶ read endpoint ─▶ delete claim
//! ```

mod claims;
mod client;
mod cluster;
mod endpoints;
mod error;
mod leases;
mod pools;
mod write_gate;

pub use claims::{AcquireOutcome, ReleaseOutcome, VerifyOutcome};
pub use client::Store;
pub use error::StoreError;
pub use leases::Leases;
pub use write_gate::WriteGate;
