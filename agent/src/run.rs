//! Wiring: what each role starts, and how it ends.
//!
//! All tasks stand in one set. One that ends early ends the process with its error: a half-dead agent would answer
//! some questions and silently not others. The first SIGTERM or SIGINT drains, the second aborts. Pinned programs and
//! links stay in the kernel either way.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use holdfast_api::store::Store;
use holdfast_core::pool::Pool;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    attach::{Attach, Guard},
    config::{AgentArgs, CommonArgs, Conf, ControllerArgs},
    controller::Controller,
    datapath::{self, Datapath},
    health::{Health, Probes, probes},
    install, ipam,
    ipam::Ipam,
    metrics::{AllocationMetrics, ControllerMetrics, GuardMetrics, VerbMetrics},
    net::Network,
    pools::Pools,
    server, watch,
};

type Tasks = JoinSet<anyhow::Result<()>>;

/// Runs a role to its end.
pub fn block_on(role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Two are enough for what is mostly waiting; more only cost memory on nodes with many cores.
    runtime.worker_threads(2).enable_all().build().context("cannot start the runtime")?.block_on(role)
}

/// The node agent.
pub async fn agent(args: &AgentArgs) -> anyhow::Result<()> {
    let conf = Conf::read(&args.common.conf)?;
    conf.log_unknown();
    let (mut tasks, stop) = (Tasks::new(), CancellationToken::new());
    let store = Store::new(client().await?);
    let network = Network::open()?;
    network.prepare_node().await?;
    let (datapath, events) = Datapath::open(&datapath::Config::new(&args.bpffs))?;
    let pools = Arc::new(Pools::default());
    let settings =
        ipam::Settings { node: args.node.clone(), families: conf.families(), stateful_set: conf.enable_stateful_set };
    let mut registry = Registry::default();
    let metrics = AllocationMetrics::register(&mut registry);
    let verbs = VerbMetrics::register(&mut registry);
    let guard = GuardMetrics::register(&mut registry, datapath.clone());
    let registry = Arc::new(registry);
    let ipam = Ipam::new(store.clone(), Arc::clone(&pools), settings, metrics);
    let attach = Attach::new(
        ipam,
        network.clone(),
        Guard { datapath: datapath.clone(), mode: conf.guard_mode, metrics: guard.clone() },
        store.client().clone(),
    )?;

    follow_pools(&mut tasks, &store, &pools, &datapath);
    if let Some(logs) = datapath.logs()? {
        tasks.spawn(async move { Err(logs.forward().await.into()) });
    }
    tasks.spawn(watch::guard(events, attach.clone(), guard));
    tasks.spawn(watch::endpoints(store.client().clone(), args.node.clone(), attach.clone()));
    tasks.spawn(attach.clone().keep_true());
    tasks.spawn(async move { Ok(network.keep_exposed().await?) });
    let socket = conf.ipam_unix_socket_path.as_deref().unwrap_or(&args.socket);
    let listener = server::listen(socket)?;
    if !args.plugin.as_os_str().is_empty() {
        install::plugin(&args.plugin, &args.cni_bin)?;
    }
    let deadline = Duration::from_secs(args.request_seconds);
    tasks.spawn(server::serve(listener, attach.clone(), deadline, verbs, stop.clone()));
    let probes = probes::agent(&pools, &datapath, socket);
    serve_health(&mut tasks, &args.common, args.health, probes, registry, &stop).await?;
    if !args.cni_conf_name.is_empty() {
        install::configuration(&args.cni_conf, &args.cni_conf_name, socket)?;
    }
    tracing::info!(node = args.node, socket = %socket.display(), "the agent serves");
    until_stopped(&mut tasks, &stop).await?;
    attach.drain().await;
    Ok(())
}

/// Serves health and metrics, and metrics alone where a scraper from outside was let in.
async fn serve_health(
    tasks: &mut Tasks,
    args: &CommonArgs,
    address: SocketAddr,
    probes: Probes,
    registry: Arc<Registry>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(scraped) = args.metrics {
        let metrics = Health::listen(scraped, Probes::default(), Arc::clone(&registry)).await?;
        tasks.spawn(metrics.serve(stop.clone()));
    }
    tasks.spawn(Health::listen(address, probes, registry).await?.serve(stop.clone()));
    Ok(())
}

/// Keeps allocation and guard informed of the pools.
fn follow_pools(tasks: &mut Tasks, store: &Store, pools: &Arc<Pools>, datapath: &Datapath) {
    let (client, followed, datapath) = (store.client().clone(), Arc::clone(pools), datapath.clone());
    tasks.spawn(async move {
        let managed = |pools: &Pools| {
            let parsed = pools.all().into_values().filter_map(|pool| pool.parsed.as_ref().ok().map(Pool::networks));
            // The number is for people who dump the map; the guard only asks whether there is one.
            let numbered: Vec<_> =
                parsed.zip(1u32..).flat_map(|(nets, id)| nets.into_iter().map(move |net| (net, id))).collect();
            if let Err(error) = datapath.set_pools(&numbered) {
                tracing::error!(%error, "the guard does not know the pools as they are now");
            }
        };
        followed.follow_pools(client, managed).await;
        bail!("the watch of the pools ended")
    });
    let (client, followed) = (store.client().clone(), Arc::clone(pools));
    tasks.spawn(async move {
        followed.follow_reserved(client).await;
        bail!("the watch of the reserved addresses ended")
    });
}

/// The controller.
pub async fn controller(args: &ControllerArgs) -> anyhow::Result<()> {
    let conf = Conf::read(&args.common.conf)?;
    conf.log_unknown();
    let (mut tasks, stop) = (Tasks::new(), CancellationToken::new());
    let store = Store::new(client().await?);
    let mut registry = Registry::default();
    let metrics = ControllerMetrics::register(&mut registry);
    let controller = Controller::start(store, args.settings(&conf)?, metrics, &mut tasks);
    let probes = probes::controller(&controller.vitals());
    tasks.spawn(controller.run(stop.clone()));
    serve_health(&mut tasks, &args.common, args.health, probes, Arc::new(registry), &stop).await?;
    until_stopped(&mut tasks, &stop).await
}

async fn client() -> anyhow::Result<Client> {
    let hint = "cannot find the API server: run in a pod with a service account, or set KUBECONFIG";
    let config = kube::Config::infer().await.context(hint)?;
    Client::try_from(config).context("cannot make a client for the API server")
}

/// Waits for a signal, or for a task that ends when it should not.
async fn until_stopped(tasks: &mut Tasks, stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = tasks.join_next() => ended,
    };
    match ended {
        Some(Ok(Ok(()))) => bail!("a task ended early"),
        Some(Ok(Err(error))) => return Err(error),
        Some(Err(error)) => return Err(error).context("a task failed"),
        None => tracing::info!("stopping; requests that run end first"),
    }
    stop.cancel();
    tokio::select! {
        _ = terminate.recv() => bail!("stopped before everything had ended"),
        _ = interrupt.recv() => bail!("stopped before everything had ended"),
        () = drain(tasks) => Ok(()),
    }
}

/// Tasks that know how to stop are waited for. The others are watches, which end with the process.
async fn drain(tasks: &mut Tasks) {
    while let Some(ended) = tasks.try_join_next() {
        drop(ended);
    }
    match tokio::time::timeout(Duration::from_secs(30), tasks.join_next()).await {
        Ok(Some(Ok(Err(error)))) => tracing::warn!(%error, "a task ended with an error"),
        Ok(_) => {}
        Err(_) => tracing::warn!("requests still run; leaving them"),
    }
    tasks.abort_all();
}
