//! The plugin's verbs on an idle cluster, from the plugin's start to its end.
//!
//! ```text
//! StatefulSet of pods, scheduled to node2 whose kubelet is away
//!      └ for each: sandbox ─▶ ADD first ─▶ DEL ─▶ another sandbox ─▶ ADD sticky ─▶ DEL
//!                  and beside it: a process that does nothing, the plugin asked for its VERSION, and get, create, put
//! ```
//!
//! The agent is the one that the chart has installed on its node; the API server is the laboratory's; the StatefulSet
//! controller makes the pods and the scheduler binds them. Only the runtime is simulated: no kubelet starts these pods,
//! and this calls the plugin's binary in the node's own namespaces, with the configuration that the agent has installed
//! there, as libcni does. A sandbox has the parts that an ADD looks for: a network namespace, and a process in a cgroup
//! with the container's ID in its name. containerd keeps running, because it collects the agent's log.
//!
//! The measurement leaves out the runtime's own share: it ends the sandbox's process before it calls DEL, and makes and
//! removes a network namespace for each sandbox. A pause separates two calls, because the kernel unregisters links
//! after DEL has answered, and each call is measured alone. Everything runs on one machine, so the API server and etcd
//! share the processors with the agent.

mod floor;
mod node;
mod sandbox;

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use xtask::{
    lab::Node,
    progress::{Poll, Progress},
};

use crate::{
    figures::Figures,
    pod::process_on,
    workload::{Assigned, Workload},
};
use floor::{Api, Noop};
use node::{Call, Plugin};
use sandbox::{Network, Process};

const NODE: &str = "node2";
const SET: &str = "verbs";
const PODS: u32 = 250;
/// The pause after the namespaces are made.
const SETTLE: Duration = Duration::from_secs(5);
/// The pause after each verb.
const REST: Duration = Duration::from_millis(100);

const MS: Duration = Duration::from_millis(1);

/// A node whose kubelet is stopped. Dropping this starts it again.
struct KubeletAway {
    node: Node,
    progress: Progress,
}

impl KubeletAway {
    fn on(workload: &Workload<'_>) -> Result<Self> {
        let node = workload.world.lab().node(NODE)?;
        let process = process_on(&workload.world.node(NODE)?.cgroup, "kubelet")?;
        kill(process, Signal::SIGKILL).context("ending the kubelet")?;
        Ok(Self { node, progress: Progress::new() })
    }
}

impl Drop for KubeletAway {
    fn drop(&mut self) {
        if let Err(error) = self.node.start_runtime(&self.progress) {
            eprintln!("the kubelet did not come back: {error:#}");
        }
    }
}

pub(crate) fn run(workload: &Workload<'_>) -> Result<()> {
    let noop = Noop::build()?;
    let away = KubeletAway::on(workload)?;
    let measured = measure(workload, &away.node, &noop);
    // The set is removed before the kubelet comes back, which would start all of its pods.
    workload.remove(SET)?;
    measured?.print();
    Ok(())
}

fn measure<'a>(workload: &Workload<'_>, node: &Node, noop: &'a Noop) -> Result<Bench<'a>> {
    let world = workload.world;
    // The effects of a node that is not ready are over once the API server reports the node as not ready.
    world.wait("the node to be seen as not ready", || {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let ready = world.cluster.run(&["get", "node", NODE, "-o", ready])?;
        Ok(if ready == "True" { Poll::Pending("it is ready".into()) } else { Poll::Ready(()) })
    })?;
    workload.stateful_set(SET, PODS, Some(NODE))?;
    let pods = workload.assigned(SET, PODS)?;
    world.progress.log("measuring");
    // A thread that enters a node does not come back.
    std::thread::scope(|scope| {
        let on_node = || {
            node::enter(node)?;
            let mut bench = Bench::new(workload, noop)?;
            bench.measure(&pods)?;
            Ok(bench)
        };
        scope.spawn(on_node).join().map_err(|_| anyhow!("the thread on the node panicked"))?
    })
}

/// A verb, as it is seen from outside and from the agent's metrics.
struct Verb {
    whole: Figures,
    agent: Figures,
    plugin: Figures,
}

impl Verb {
    fn new(whole: &'static str) -> Self {
        Self {
            whole: Figures::new(whole),
            agent: Figures::new("  of that in the agent"),
            plugin: Figures::new("  the rest, less a process that does nothing"),
        }
    }

    fn add(&mut self, call: &Call, spawn: Duration) {
        self.whole.add(call.took);
        self.agent.add(call.agent);
        self.plugin.add(call.took.saturating_sub(call.agent + spawn));
    }

    fn print(&self, budgets: &[(usize, Duration)]) {
        self.whole.print_beside(budgets);
        self.agent.print();
        self.plugin.print_beside(&[(50, MS)]);
    }
}

struct Bench<'a> {
    noop: &'a Noop,
    plugin: Plugin,
    api: Api,
    cgroup: String,
    spawn: Figures,
    version: Figures,
    first: Verb,
    sticky: Verb,
    del: Verb,
}

impl<'a> Bench<'a> {
    fn new(workload: &Workload<'_>, noop: &'a Noop) -> Result<Self> {
        let world = workload.world;
        Ok(Self {
            noop,
            plugin: Plugin::installed()?,
            api: Api::connect(world.kubeconfig.clone())?,
            cgroup: world.node(NODE)?.cgroup.clone(),
            spawn: Figures::new("process: static, reads stdin, ends"),
            version: Figures::new("plugin: VERSION, without the agent"),
            first: Verb::new("ADD, first"),
            sticky: Verb::new("ADD, sticky"),
            del: Verb::new("DEL"),
        })
    }

    fn measure(&mut self, pods: &[Assigned]) -> Result<()> {
        // All before, and all until the end: a namespace that comes or goes is in the way of the next verb.
        let networks = pods.iter().map(|pod| Network::new(&pod.pod)).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(SETTLE);
        for (number, (pod, network)) in pods.iter().zip(&networks).enumerate() {
            let spawn = self.noop.run()?;
            self.spawn.add(spawn);
            self.version.add(node::version()?);
            self.api.round(number)?;
            for round in ["first", "sticky"] {
                let container = format!("bench-{}-{round}", pod.pod);
                let _process = Process::new(&self.cgroup, &container)?;
                let add = self.plugin.call("ADD", pod, &container, network)?;
                let verb = if round == "first" { &mut self.first } else { &mut self.sticky };
                verb.add(&add, spawn);
                std::thread::sleep(REST);
                self.del.add(&self.plugin.call("DEL", pod, &container, network)?, spawn);
                std::thread::sleep(REST);
            }
        }
        Ok(())
    }

    fn print(&self) {
        println!("# The plugin's verbs on an idle cluster: {PODS} pods, everything in turns");
        self.spawn.print();
        self.version.print();
        self.api.print();
        self.first.print(&[(50, 5 * MS), (99, 25 * MS)]);
        self.sticky.print(&[(50, 4 * MS)]);
        self.del.print(&[(50, 5 * MS)]);
    }
}
