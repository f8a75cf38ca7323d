//! Wiring: what each role starts, and how it ends.
//!
//! A task that ends early ends the process with its error: a half-dead agent would answer some questions and silently
//! not others. The first SIGTERM or SIGINT drains: what serves is told to stop and waited for, all of it; only then do the
//! watches end. The second aborts. Pinned programs and links stay in the kernel either way.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use holdfast_api::{event_recorder::EventRecorder, store::Store};
use holdfast_controller::{Controller, ControllerMetrics};
use holdfast_guard::{Datapath, GuardMetrics};
use holdfast_ipam::{Ipam, IpamMetrics, PoolCache};
use holdfast_net::Network;
use ipnet::IpNet;
use kube::{Client, Config, client::ClientBuilder};
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::timeout::TimeoutLayer;

use crate::{
    config::{AgentArgs, CommonArgs, Conf, ControllerArgs},
    health::{Health, Probes, probes},
    install,
    node::{Attach, Guard, watch},
    server::{self, VerbMetrics},
};

/// How long everything that serves may take to end. A kubelet kills what is left half a minute after its SIGTERM.
const DRAIN: Duration = Duration::from_secs(25);
/// How long the API server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer a read or a write. Lists of large pools take seconds.
const ANSWER: Duration = Duration::from_secs(15);
/// How long it may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);

type Outcome = anyhow::Result<()>;

/// What a process does at the same time.
#[derive(Default)]
struct Tasks {
    /// What ends by itself once it is told to stop, and has something to bring to its end before.
    serving: JoinSet<Outcome>,
    /// Watches and the like. They know no end and leave nothing behind.
    following: JoinSet<Outcome>,
}

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
    let attach = Attach::new(
        ipam,
        network.clone(),
        Guard { datapath: datapath.clone(), mode: conf.guard_mode, metrics: guard.clone() },
        event_recorder(&store, &args.node, &mut tasks.following),
    )?;

    let following = &mut tasks.following;
    follow_pools(following, &watches, &pools, &datapath);
    if let Some(logs) = datapath.logs()? {
        following.spawn(async move { Err(logs.forward().await.into()) });
    }
    following.spawn(watch::guard(events, attach.clone(), guard));
    following.spawn(watch::endpoints(watches, args.node.clone(), attach.clone()));
    following.spawn(attach.clone().run());
    following.spawn(async move { Ok(network.monitor_uplinks().await?) });
    let socket = conf.ipam_unix_socket_path.as_deref().unwrap_or(&args.socket);
    let listener = server::listen(socket)?;
    if !args.plugin.as_os_str().is_empty() {
        install::plugin(&args.plugin, &args.cni_bin)?;
    }
    let deadline = Duration::from_secs(args.request_seconds);
    tasks.serving.spawn(server::serve(listener, attach.clone(), deadline, verbs, stop.clone()));
    let probes = probes::agent(&pools, &datapath, socket);
    serve_health(&mut tasks.serving, &args.common, args.health, probes, registry, &stop).await?;
    if !args.cni_conf_name.is_empty() {
        install::configuration(&args.cni_conf, &args.cni_conf_name, socket)?;
    }
    tracing::info!(node = args.node, socket = %socket.display(), "the agent serves");
    until_stopped(tasks, &stop, async move { attach.drain().await }).await
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

/// Keeps allocation and guard informed of the pools.
fn follow_pools(following: &mut JoinSet<Outcome>, client: &Client, pools: &Arc<PoolCache>, datapath: &Datapath) {
    let (watches, followed, datapath) = (client.clone(), Arc::clone(pools), datapath.clone());
    following.spawn(async move {
        let known = Mutex::new(BTreeMap::new());
        let managed = |pools: &PoolCache| {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let managed = managed(pools, &mut known);
            if let Err(error) = datapath.set_pools(&managed) {
                tracing::error!(%error, "the guard does not know the pools as they are now");
            }
        };
        followed.watch_pools(watches, managed).await;
        bail!("the watch of the pools ended")
    });
    let (watches, followed) = (client.clone(), Arc::clone(pools));
    following.spawn(async move {
        followed.watch_reserved_ips(watches).await;
        bail!("the watch of the reserved addresses ended")
    });
}

/// The networks that the guard is to manage. A pool whose spec cannot be read (any more) keeps those that it had: its
/// addresses are in use.
fn managed(pools: &PoolCache, known: &mut BTreeMap<String, Vec<IpNet>>) -> Vec<(IpNet, u32)> {
    let all = pools.all();
    known.retain(|name, _| all.contains_key(name));
    for (name, pool) in all {
        if let Ok(parsed) = &pool.parsed {
            known.insert(name, parsed.networks());
        }
    }
    // The number is for people who dump the map; the guard only asks whether there is one.
    let numbered = known.values().zip(1u32..);
    numbered.flat_map(|(nets, number)| nets.iter().map(move |net| (*net, number))).collect()
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

/// A store whose reads and writes end in time, whatever becomes of the API server, and a client for watches, which are
/// silent for as long as nothing happens.
async fn clients() -> anyhow::Result<(Store, Client)> {
    let hint = "cannot find the API server: run in a pod with a service account, or set KUBECONFIG";
    let mut config = Config::infer().await.context(hint)?;
    config.connect_timeout = Some(CONNECT);
    let wrong = "cannot make a client for the API server";
    let watches = Client::try_from(config.clone()).context(wrong)?;
    Ok((Store::new(timely(config, ANSWER).context(wrong)?), watches))
}

/// A client whose requests are answered within `answer`, or fail.
fn timely(mut config: Config, answer: Duration) -> kube::Result<Client> {
    config.read_timeout = Some(SILENCE);
    // Else the time that a connection had nothing to do would count.
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(answer)).build())
}

/// Waits for a signal, or for a task that ends when it should not; then lets everything come to its end, and `last` after
/// it.
async fn until_stopped(mut tasks: Tasks, stop: &CancellationToken, last: impl Future<Output = ()>) -> Outcome {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        early = tasks.early_end() => Err(early),
    };
    tracing::info!("stopping; requests that run end first");
    stop.cancel();
    tokio::select! {
        _ = terminate.recv() => bail!("stopped before everything had ended"),
        _ = interrupt.recv() => bail!("stopped before everything had ended"),
        () = tasks.drain(DRAIN, last) => outcome,
    }
}

impl Tasks {
    /// Why a task ended that should not have. Waits for ever while none does.
    async fn early_end(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.serving.join_next() => ended,
            Some(ended) = self.following.join_next() => ended,
            else => pending().await,
        };
        match ended {
            Ok(Ok(())) => anyhow!("a task ended early"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error).context("a task failed"),
        }
    }

    /// Waits until all that serves has ended, then for `last`, and ends the rest.
    async fn drain(&mut self, within: Duration, last: impl Future<Output = ()>) {
        let ends = async {
            while let Some(ended) = self.serving.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "a task ended with an error"),
                    Err(error) => tracing::warn!(%error, "a task failed"),
                }
            }
            last.await;
        };
        if tokio::time::timeout(within, ends).await.is_err() {
            tracing::warn!("not everything has ended in {within:?}; leaving it");
        }
        self.serving.abort_all();
        self.following.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use holdfast_api::ippool::SpiderIPPool;
    use serde_json::json;

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Tasks that take `each` to end once they are told to, a watch that knows no end, and how many have ended.
    fn tasks(each: &[u64], stop: &CancellationToken) -> (Tasks, Arc<AtomicUsize>) {
        let (mut tasks, ended) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        for &milliseconds in each {
            let (stop, ended) = (stop.clone(), Arc::clone(&ended));
            tasks.serving.spawn(async move {
                stop.cancelled().await;
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                ended.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }
        tasks.following.spawn(pending());
        (tasks, ended)
    }

    #[tokio::test]
    async fn all_that_serves_is_waited_for_and_no_watch() {
        let stop = CancellationToken::new();
        let (mut tasks, ended) = tasks(&[0, 150, 50], &stop);
        stop.cancel();
        let seen = Arc::clone(&ended);
        let last = async move { assert_eq!(seen.fetch_add(10, Ordering::Relaxed), 3, "the last comes last") };
        tasks.drain(Duration::from_secs(20), last).await;
        assert_eq!(ended.load(Ordering::Relaxed), 13);
    }

    #[tokio::test]
    async fn what_does_not_end_is_left_after_its_time() {
        let stop = CancellationToken::new();
        let (mut tasks, ended) = tasks(&[0, 600_000], &stop);
        stop.cancel();
        tasks.drain(Duration::from_millis(200), pending()).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_request_that_hangs_fails() {
        // The kernel takes the connection, and nobody the request.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let store = Store::new(timely(Config::new(url), Duration::from_millis(100)).unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(20), store.node("n")).await;
        assert!(answer.expect("it should have failed by itself").is_err());
    }

    #[tokio::test]
    async fn a_task_that_ends_early_says_why() {
        let stop = CancellationToken::new();
        let (mut tasks, _) = tasks(&[0], &stop);
        tasks.following.spawn(async { bail!("the watch of the pools ended") });
        assert_eq!(tasks.early_end().await.to_string(), "the watch of the pools ended");
    }

    #[test]
    fn a_pool_that_cannot_be_read_any_more_stays_managed() {
        let pool = |ips: &str| {
            let spec = json!({"subnet": "10.0.0.0/24", "ips": [ips]});
            SpiderIPPool::new("p", serde_json::from_value(spec).unwrap())
        };
        let (pools, mut known) = (PoolCache::default(), BTreeMap::new());
        pools.replace(vec![pool("10.0.0.1-10.0.0.9")], &[]);
        let before = managed(&pools, &mut known);
        assert!(!before.is_empty());
        pools.replace(vec![pool("nonsense")], &[]);
        assert_eq!(managed(&pools, &mut known), before);
        pools.replace(Vec::new(), &[]);
        assert_eq!(managed(&pools, &mut known), []);
    }
}
