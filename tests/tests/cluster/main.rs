//! holdfast on a real cluster: the laboratory, with holdfast installed.
//!
//! ```text
//! world    the laboratory that HOLDFAST_LAB_NAME names, once for all tests
//!  └ namespace  one test's namespace and pools: made, looked at, taken away again
//!     ├ kubectl     what a user types, and what it prints
//!     ├ api         looks at objects, many times a second while something is waited for
//!     └ invariants  what is true of all pods at any moment
//! sandbox  a runtime's part by hand: sandboxes, their processes, calls of plugins
//! traffic  a host on the LAN that talks to pods
//! agents   holdfast's own pods
//! spoofer  a pod that spoofs its source address
//! nodes    a node without its runtime, or without the plugin
//! exclusive  who may disturb what
//! whole    what every test may expect, and what a test that disturbed something waits for
//! ```
//!
//! Tests share the laboratory, and a test that disturbs others has it exclusively until it is whole again.
//! `cargo xtask test cluster` runs them all.

mod agents;
mod api;
mod exclusive;
mod invariants;
mod manifest;
mod namespace;
mod nodes;
mod sandbox;
mod spoofer;
mod traffic;
mod whole;
mod world;

mod bad_requests;
mod churn;
mod columns;
mod conflict;
mod crash;
mod death;
mod defaults;
mod delegate;
mod deletion;
mod exhaustion;
mod fixed;
mod force_delete;
mod guard;
mod late_del;
mod orphans;
mod owners;
mod records;
mod repool;
mod restart;
mod retain;
mod scaling;
mod stale;
mod sticky;
mod terminating;
mod versions;
mod without_node;
mod without_plugin;
