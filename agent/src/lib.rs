//! The node agent and the controller: their processes, and the agent's node side.
//!
//! ```text
//! plugin ─▶ server ─▶ node ─┬▶ holdfast-ipam   which addresses ─▶ holdfast-api's store
//!                           ├▶ holdfast-net    links, addresses, routes
//!                           └▶ holdfast-guard  the guard's programs and maps ─▶ events ─▶ node
//! run ─▶ holdfast-controller ─▶ holdfast-core's election, collect ─▶ holdfast-api's store
//! health                        probes and metrics over HTTP
//! ```

pub mod config;
pub mod health;
pub mod install;
pub mod node;
pub mod run;
pub mod server;
pub mod telemetry;
