//! The node agent and the controller.
//!
//! ```text
//! plugin ─▶ server ─▶ attach ─┬▶ ipam (choice, owner, pools) ─▶ holdfast-api's store
//!                             ├▶ net        links, addresses, routes
//!                             └▶ datapath   the guard's programs and maps ─▶ events ─▶ watch
//! controller ─▶ holdfast-core's election, collect ─▶ store
//! health, metrics               what probes and dashboards ask
//! ```

pub mod attach;
pub mod choice;
pub mod config;
pub mod controller;
pub mod datapath;
pub mod fixed;
pub mod health;
pub mod install;
pub mod ipam;
pub mod metrics;
pub mod net;
pub mod owner;
pub mod pools;
pub mod run;
pub mod sandbox;
pub mod server;
pub mod telemetry;
pub mod watch;
