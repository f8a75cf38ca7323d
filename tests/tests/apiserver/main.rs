//! The controller against a real API server without nodes.
//!
//! ```text
//! server   etcd and kube-apiserver of the laboratory's parts, on this machine's loopback, once for all tests
//!  └ world   one test's namespace and pool, and what people, kubelets and agents would write there
//! ```
//!
//! Pods have no kubelet: they are there from the moment they are created until they are deleted.

mod delayed_client;
mod namespace;
mod server;
mod world;

mod conditions;
mod election;
mod gc_rules;
mod import;
mod leaks;
mod paused;
