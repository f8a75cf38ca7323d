//! Wiring: what each role starts.
//!
//! A task that ends early ends the process with its error: a half-dead agent would answer some questions and silently
//! not others. The first SIGTERM or SIGINT drains: what serves is told to stop and waited for, all of it; only then do
//! the watches end. The second aborts. Pinned programs and links stay in the kernel either way.

mod clients;
mod managed_pools;
mod tasks;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clients::clients;
use holdfast_api::{event_recorder::EventRecorder, store::Store};
use holdfast_controller::{Controller, ControllerMetrics};
use holdfast_guard::{Datapath, GuardMetrics};
use holdfast_ipam::{Ipam, IpamMetrics, PoolCache};
use holdfast_net::Network;
use managed_pools::follow_pools;
use prometheus_client::registry::Registry;
use tasks::{Outcome, Tasks, until_stopped};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AgentArgs, CommonArgs, Conf, ControllerArgs},
    health::{Health, Probes, probes},
    install,
    node::{self, Node, backend::Backends},
    server::{self, VerbMetrics},
};

/// Runs a role to its end.
pub fn block_on(role: impl Future<Output = Outcome>) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Two are enough for what is mostly waiting; more only cost memory on nodes with many cores.
    runtime.worker_threads(2).enable_all().build().context("cannot start the runtime")?.block_on(role)
}

/// The node agent.
pub async fn agent(args: &AgentArgs) -> anyhow::Result<()> {
    let conf = Conf::read(&args.common.conf)?;
    conf.log_unknown();
    let (mut tasks, stop) = (Tasks::default(), CancellationToken::new());
    let (store, watches) = clients().await?;
    let network = Network::open()?;
    network.prepare_node().await?;
    let (datapath, events) = Datapath::open(&holdfast_guard::Config::new(&args.bpffs))?;
    let pools = Arc::new(PoolCache::default());
    let settings = holdfast_ipam::Settings {
        node: args.node.clone(),
        families: conf.families(),
        sticky_stateful_sets: conf.enable_stateful_set,
    };
    let mut registry = Registry::default();
    let metrics = IpamMetrics::register(&mut registry);
    let verbs = VerbMetrics::register(&mut registry);
    let guard = GuardMetrics::register(&mut registry, datapath.clone());
    let registry = Arc::new(registry);
    let ipam = Ipam::new(store.clone(), Arc::clone(&pools), settings, metrics);
    let backends = Backends::of_node(network.clone(), datapath.clone(), ipam);
    let events_on_pods = event_recorder(&store, &args.node, &mut tasks.following);
    let node = Node::new(backends, conf.guard_mode, guard.clone(), events_on_pods)?;

    let following = &mut tasks.following;
    follow_pools(following, &watches, &pools, &datapath);
    if let Some(logs) = datapath.logs()? {
        following.spawn(async move { Err(logs.forward().await.into()) });
    }
    following.spawn(node::handle_events(events, node.driver.clone(), node.reconciler.clone(), guard));
    following.spawn(node::watch_endpoints(watches, args.node.clone(), node.reconciler.clone()));
    following.spawn(node.reconciler.clone().run());
    following.spawn(async move { Ok(network.monitor_uplinks().await?) });
    let socket = conf.ipam_unix_socket_path.as_deref().unwrap_or(&args.socket);
    let listener = server::listen(socket)?;
    if !args.plugin.as_os_str().is_empty() {
        install::plugin(&args.plugin, &args.cni_bin)?;
    }
    let deadline = Duration::from_secs(args.request_seconds);
    tasks.serving.spawn(server::serve(listener, node.attachments.clone(), deadline, verbs, stop.clone()));
    let probes = probes::agent(&pools, &datapath, socket);
    serve_health(&mut tasks.serving, &args.common, args.health, probes, registry, &stop).await?;
    if !args.cni_conf_name.is_empty() {
        install::configuration(&args.cni_conf, &args.cni_conf_name, socket)?;
    }
    tracing::info!(node = args.node, socket = %socket.display(), "the agent serves");
    until_stopped(tasks, &stop, async move { node.drain().await }).await
}

/// Returns the agent's event recorder, whose events a task of its own writes.
fn event_recorder(store: &Store, node: &str, following: &mut JoinSet<Outcome>) -> EventRecorder {
    let dropped = || tracing::warn!("a Kubernetes event was dropped: too many wait to be written");
    let (recorder, queue) = EventRecorder::new(dropped);
    let (store, node) = (store.clone(), node.to_owned());
    following.spawn(async move {
        queue.write(store, "holdfast-agent", &node).await;
        bail!("the writer of Kubernetes events ended")
    });
    recorder
}

/// Serves health and metrics, and metrics alone where a scraper from outside was let in.
async fn serve_health(
    serving: &mut JoinSet<Outcome>,
    args: &CommonArgs,
    address: SocketAddr,
    probes: Probes,
    registry: Arc<Registry>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(scraped) = args.metrics {
        let metrics = Health::listen(scraped, Probes::default(), Arc::clone(&registry)).await?;
        serving.spawn(metrics.serve(stop.clone()));
    }
    serving.spawn(Health::listen(address, probes, registry).await?.serve(stop.clone()));
    Ok(())
}

/// The controller.
pub async fn controller(args: &ControllerArgs) -> anyhow::Result<()> {
    let conf = Conf::read(&args.common.conf)?;
    conf.log_unknown();
    let (mut tasks, stop) = (Tasks::default(), CancellationToken::new());
    let (store, watches) = clients().await?;
    let mut registry = Registry::default();
    let metrics = ControllerMetrics::register(&mut registry);
    let controller = Controller::start(store, &watches, args.settings(&conf)?, metrics, &mut tasks.following);
    let probes = probes::controller(&controller.heartbeat());
    tasks.serving.spawn(controller.run(stop.clone()));
    serve_health(&mut tasks.serving, &args.common, args.health, probes, Arc::new(registry), &stop).await?;
    until_stopped(tasks, &stop, async {}).await
}
