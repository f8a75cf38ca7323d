//! The pure core of holdfast: allocation order, bindings, garbage collection and leader election.
//!
//! No code here does I/O or reads a clock. Each function takes the state, an event and the time, and returns the actions;
//! one driver in the agent or the controller carries them out:
//!
//! ```text
//! ADD    ──▶ pool::Pool              ──▶ allocate::proposals ──▶ api (creating the claim decides) ──▶ net, guard
//! event  ──▶ binding::Bindings::step ──▶ Action              ──▶ guard, net, api
//! change ──▶ collect::judge          ──▶ Verdict             ──▶ api: unbind, release
//! lease  ──▶ election::Election      ──▶ Step                ──▶ api: create, renew, acquire
//! ```
//!
//! `id`, `mac` and `guard_mode` are the types that all of these share; `latency` is shared by the agent's metrics.

#![forbid(unsafe_code)]

pub mod allocate;
pub mod binding;
pub mod collect;
pub mod election;
pub mod guard_mode;
pub mod id;
pub mod latency;
pub mod mac;
pub mod pool;
