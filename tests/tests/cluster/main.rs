//! holdfast on a real cluster: the laboratory, with holdfast installed.
//!
//! ```text
//! world       the laboratory that HOLDFAST_LAB_NAME names, once for all tests
//!  ├ exclusive   shared by most tests, owned by one that disturbs others
//!  ├ whole       the state that every test finds, and that a disturbing test restores
//!  └ namespace   one test's namespace and pools: made, looked at, removed
//!     ├ kubectl     commands as users type them, and their output
//!     ├ api         looks at objects, many times a second while a test waits
//!     └ invariants  true of all pods at any moment
//! sandbox     a runtime's work by hand: sandboxes, their processes, calls of plugins
//! traffic     a host on the LAN that talks to pods
//! agents      holdfast's own pods
//! spoofer     a pod that spoofs its source address
//! nodes       a node without its runtime or the plugin, or cordoned
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
