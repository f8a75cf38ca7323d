//! The guard's user side: loads the programs, pins them, keeps their maps, reads their events.
//!
//! ```text
//! open ──▶ bpffs? ──▶ layout of pinned maps? ──▶ load ──▶ adopt pinned links (swap program) ──▶ prune what is gone
//!      ──▶ resolve owners: one holder for each address
//! bind ──▶ BINDINGS[link, address] = CURRENT ──▶ OWNERS[address] ──▶ every other link's entry = STALE
//! EVENTS ──▶ Events::next ──▶ GuardEvent
//! ```
//!
//! All that enforces is pinned under one folder of bpffs: `maps/` and `links/`. It works on while no agent runs, and an
//! agent that starts adopts it. Below Linux 6.6 the programs are filters of a clsact qdisc, which live as long
//! as their interface; `LINKS` tells the next agent where they are.
//!
//! All methods are synchronous: each is a handful of system calls of microseconds. They act on the network namespace
//! of the calling thread, which is the node's.

mod adopt;
mod attach;
mod config;
mod counters;
mod datapath;
mod entries;
mod error;
mod events;
mod hook;
mod interfaces;
mod load;
mod logs;
mod maps;
mod metrics;
mod pins;
mod pod_netns;
mod resolve_owners;
mod sandbox;
mod state;
mod uplink;

pub use config::Config;
pub use counters::Counters;
pub use datapath::Datapath;
pub use entries::{Binding, BindingEntry, BindingState, Link, LinkInfo, LinkRole};
pub use error::DatapathError;
pub use events::{EventKind, Events, GuardEvent, Holder, Via};
pub use logs::Logs;
pub use metrics::GuardMetrics;
pub use sandbox::ended as sandbox_ended;
