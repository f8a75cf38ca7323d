//! Measurements on a cluster: the laboratory, with holdfast installed. They print numbers and have no limits, because
//! numbers depend on the machine and its load.
//!
//! ```text
//! world     the laboratory that HOLDFAST_LAB_NAME names, and a client of its API server
//! workload  a namespace with pools, and a StatefulSet's pods in it
//! watch     endpoints, as the API server tells of them
//! agent     holdfast's process on a node: its log, its metrics, its memory
//! pod       a running pod's interface, for frames; the node's side of it
//!
//! records   a record that names an older container → the record corrected      ─┐
//! deaths    a sandbox killed → the agent, the endpoint, the runtime's DEL       ├ cargo xtask bench guard
//! flood     a million packets that are not the pod's own: the agent's memory   ─┘
//! verbs     ADD and DEL from the plugin's start to its end                      ── cargo xtask bench add
//! ```

mod agent;
mod figures;
mod pod;
mod watch;
mod workload;
mod world;

mod deaths;
mod flood;
mod records;
mod verbs;

use crate::{workload::Workload, world::World};

/// The number of pods on both nodes; each pod is measured alone.
const PODS: u32 = 20;

fn main() -> anyhow::Result<()> {
    let world = World::enter()?;
    let workload = Workload::new(&world)?;
    // Cargo adds an argument of its own.
    if std::env::args().any(|argument| argument == "verbs") {
        return verbs::run(&workload);
    }
    workload.stateful_set("web", PODS, None)?;
    records::run(&workload, &workload.ready("web", PODS)?)?;
    deaths::run(&workload, &workload.ready("web", PODS)?)?;
    flood::run(&workload, &workload.ready("web", PODS)?)?;
    workload.remove("web")
}
