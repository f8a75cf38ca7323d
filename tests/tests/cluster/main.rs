//! holdfast on a real cluster: the laboratory, with holdfast installed.
//!
//! ```text
//! world    the laboratory that HOLDFAST_LAB_NAME names, once for all tests
//!  └ stage    one test's namespace and pools: made, looked at, taken away again
//!     ├ kubectl     what a user types, and what it prints
//!     └ api         looks at objects, many times a second while something is waited for
//! sandbox  a runtime's part by hand: sandboxes, their processes, calls of plugins
//! traffic  a host on the LAN that talks to pods
//! agents   holdfast's own pods
//! liar     frames from inside a pod that no stack would send
//! ```
//!
//! Tests run at the same time, but for those that disturb others. `cargo xtask test cluster` runs them all.

mod agents;
mod api;
mod liar;
mod manifest;
mod sandbox;
mod stage;
mod traffic;
mod world;

mod columns;
mod conflict;
mod crash;
mod death;
mod delegate;
mod deletion;
mod exhaustion;
mod guard;
mod late;
mod mistakes;
mod owners;
mod records;
mod restart;
mod stale;
mod sticky;
mod versions;
