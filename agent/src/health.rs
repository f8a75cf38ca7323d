//! Health over HTTP, for the kubelet's probes and for people: what is asked is looked at, never remembered.
//!
//! | path | asks |
//! |---|---|
//! | `/v1/runtime/startup` | has it started? |
//! | `/v1/runtime/readiness` | can it do its work? |
//! | `/v1/runtime/liveness` | is it worth keeping? |
//! | `/metrics` | what has it counted? |
//!
//! 200 with `ok`, or 503 with the reason.

mod check;
mod http;
pub mod probes;

pub use self::{
    check::{Check, Probes, check},
    http::Health,
};
