//! The pure core of holdfast: who may hold which address, and what follows from an event.
//!
//! Nothing here does I/O or knows the time. Every function takes the state and answers with what to do; one
//! driver in the agent or the controller carries it out:
//!
//! ```text
//! ADD   ──▶ pool::AddressSet ──▶ allocate::propose ──▶ (api: create decides) ──▶ net, guard
//! event ──▶ binding::step    ──▶ actions           ──▶ guard, api
//! scan  ──▶ collect::judge   ──▶ keep | suspect | unbind | release
//! ```

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
