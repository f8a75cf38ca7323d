//! The controller: collects what leaked and writes the pools' view.
//!
//! ```text
//! lease ─▶ leader: who of the replicas works; the store writes for no other
//! watches (pools, endpoints, claims, pods, StatefulSets, nodes) ─▶ caches, changes ─▶ one round at a time:
//!   missing   listed without a claim ─▶ look again ─▶ claim
//!   endpoints   judge from the caches ─▶ judge again from live reads ─▶ unbind │ release
//!   claims      unlisted for a while ─▶ mark; rest over ─▶ delete
//!   views       claims × endpoints ─▶ each pool's status, where it differs
//!   versions    filled in where a pool names none
//!   finalizers  a pool stays until nothing of it is in use
//! ```
//!
//! A round works on what changed and on what has come due. A full scan, now and then and with each new leader, works on
//! everything, so what a lost event or a hand-made edit left wrong is mended.

#![forbid(unsafe_code)]

mod claim_gc;
mod conditions;
mod delay_queue;
mod endpoint_gc;
mod finalizers;
mod import;
mod index;
mod ip_version;
mod leader_election;
mod metrics;
mod missing_claims;
mod outcome_recorder;
mod pending_changes;
mod pool_status;
mod reconcile;
mod reflectors;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use holdfast_api::store::{Leases, Store, StoreError, WriteGate};
use holdfast_core::{
    collect::{Cooldowns, FirstSeen, Policy},
    election::LeaseTimings,
    id::PodName,
};
use kube::Client;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use delay_queue::{DelayQueue, Requeue};
use endpoint_gc::UnboundPeriod;
use index::Index;
use leader_election::LeaderElector;
pub use leader_election::Leadership;
pub use metrics::ControllerMetrics;
use missing_claims::MissingClaims;
use outcome_recorder::OutcomeRecorder;
use reflectors::Reflectors;

/// PendingChanges that come together are handled together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Objects that are collected at the same time. Enough to keep an API server busy, few enough to leave it to others.
const CONCURRENCY: usize = 16;
/// How many endpoints and claims one round collects: views are written in between.
const BATCH: usize = 256;
/// How soon a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is collected at all; views and finalizers are looked after either way.
    pub collect: bool,
    /// How long things rest.
    pub cooldowns: Cooldowns,
    /// What becomes of pods that should be gone and are not.
    pub policy: Policy,
    /// Whether the pods of StatefulSets keep their addresses.
    pub stateful_set: bool,
    /// How long until everything is looked at again.
    pub full_scan: Duration,
    /// This replica's name in the election, like no other's.
    pub identity: String,
    /// The namespace of the lease.
    pub namespace: String,
    /// The times of the election.
    pub lease_timings: LeaseTimings,
}

/// The name of the lease.
const LEASE: &str = "holdfast-controller";

/// The controller.
pub struct Controller {
    store: Store,
    reflectors: Reflectors,
    settings: Settings,
    metrics: ControllerMetrics,
    outcomes: OutcomeRecorder,
    state: State,
    /// What has to be tried again.
    failed: Mutex<Vec<Requeue>>,
    elector: Option<LeaderElector>,
    heartbeat: Arc<Heartbeat>,
    started: Instant,
}

/// What a leader knows beyond the caches. A new leader starts anew.
#[derive(Default)]
struct State {
    index: Index,
    delay_queue: DelayQueue,
    /// Pools whose addresses in use are not all known yet, and until when to wait before the next try but one.
    held_back: HashSet<String>,
    import_pause: Duration,
    missing_claims: FirstSeen<PodName, MissingClaims>,
    claims_seen: FirstSeen<String, (Option<String>, Option<String>, bool, bool)>,
    unbound_periods: FirstSeen<PodName, UnboundPeriod>,
    terminating: FirstSeen<PodName, String>,
    finished: FirstSeen<PodName, String>,
    lost_nodes: FirstSeen<String, ()>,
    ready_nodes: HashMap<String, bool>,
    /// The generation of each pool's spec.
    pools: HashMap<String, Option<i64>>,
    next_write: HashMap<String, Duration>,
}

impl State {
    /// What was known of an endpoint that is gone.
    fn forget_endpoint(&mut self, name: &PodName) {
        self.unbound_periods.forget(name);
        self.terminating.forget(name);
        self.finished.forget(name);
        self.missing_claims.forget(name);
    }
}

/// How long a round may take without getting anything done. Each request ends within less.
const STALLED: Duration = Duration::from_secs(60);

/// What the health endpoints tell.
pub struct Heartbeat {
    synced: watch::Sender<bool>,
    leadership: watch::Receiver<Leadership>,
    duration: Duration,
    /// By when the next sign of life is due; none while another leads.
    due: Mutex<Option<Instant>>,
}

impl Heartbeat {
    /// Whether every cache has been filled.
    pub fn synced(&self) -> Result<(), String> {
        if *self.synced.borrow() { Ok(()) } else { Err("the watches have not listed everything yet".to_owned()) }
    }

    /// Whether the leader's work gets on.
    pub fn is_progressing(&self) -> Result<(), String> {
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        match due.map(|due| due.elapsed()) {
            Some(late) if !late.is_zero() => Err(format!("a round has made no progress for {:?}", STALLED + late)),
            _ => Ok(()),
        }
    }

    /// Something was done.
    fn progress(&self) {
        self.idle_for(Duration::ZERO);
    }

    /// There is nothing to do for this long.
    fn idle_for(&self, pause: Duration) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause + STALLED);
    }

    /// Nothing is expected from here on.
    fn stand_by(&self) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it is known who leads.
    pub fn leader_known(&self) -> Result<(), String> {
        let leadership = self.leadership.borrow();
        let fresh = leadership.looked.elapsed() < self.duration;
        match leadership.holder {
            Some(_) if fresh => Ok(()),
            Some(_) => Err(format!("the lease was not read for {:?}", leadership.looked.elapsed())),
            None => Err("nobody holds the lease yet".to_owned()),
        }
    }
}

impl Controller {
    /// A controller behind `store`, whose watches start now through `watches`.
    pub fn start(
        store: Store,
        watches: &Client,
        settings: Settings,
        metrics: ControllerMetrics,
        tasks: &mut tokio::task::JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let reflectors = Reflectors::start(watches, tasks);
        let gate = WriteGate::closed();
        let leases = Leases::new(store.client().clone(), &settings.namespace, LEASE);
        let store = store.with_write_gate(gate.clone());
        let outcomes = OutcomeRecorder::start(store.clone(), &settings.identity, metrics.clone(), tasks);
        let elector = LeaderElector::new(leases, &settings.identity, settings.lease_timings, gate);
        let heartbeat = Heartbeat {
            synced: watch::Sender::new(false),
            leadership: elector.leadership(),
            duration: settings.lease_timings.duration,
            due: Mutex::default(),
        };
        Self {
            store,
            reflectors,
            settings,
            metrics,
            outcomes,
            state: State::default(),
            failed: Mutex::default(),
            elector: Some(elector),
            heartbeat: Arc::new(heartbeat),
            started: Instant::now(),
        }
    }

    /// What the health endpoints tell.
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Works whenever it leads, until `stop`; then gives the lease back.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            synced = self.reflectors.synced() => synced?,
        }
        self.heartbeat.synced.send_replace(true);
        tracing::info!(identity = self.settings.identity, "the caches are filled; standing for election");
        let Some(elector) = self.elector.take() else { return Ok(()) };
        let mut leadership = elector.leadership();
        let gone = CancellationToken::new();
        let standing = AbortOnDropHandle::new(tokio::spawn(elector.run(gone.clone())));
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                led = leadership.wait_for(Leadership::leads) => drop(led?),
            }
            self.metrics.leads(true);
            self.heartbeat.progress();
            let mut watched = leadership.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                over = watched.wait_for(|state| !state.leads()) => drop(over?),
                () = self.lead() => {}
            }
            self.metrics.leads(false);
            self.heartbeat.stand_by();
            // Nobody takes changes from here on; a new leader looks at everything anyway.
            self.reflectors.changes().add_everything();
        }
        // Nothing of ours is under way any more: another may start.
        gone.cancel();
        standing.await?;
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A write to a pool failed. That somebody else's came first is no failure.
    fn pool_failed(&self, pool: &str, error: &StoreError, what: &str) {
        if error.is_conflict() {
            tracing::debug!(pool, %error, "{what}");
        } else {
            tracing::warn!(pool, %error, "{what}; trying again");
        }
        self.requeue(Requeue::Pool(pool.to_owned()));
    }

    /// What failed is looked at again soon.
    fn requeue(&self, due: Requeue) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_stands_still_shows() {
        let lately = Instant::now();
        let (_, leadership) = watch::channel(Leadership { until: None, holder: None, looked: lately });
        let (synced, duration) = (watch::Sender::new(true), Duration::from_secs(6));
        let heartbeat = Heartbeat { synced, leadership, duration, due: Mutex::default() };
        assert_eq!(heartbeat.is_progressing(), Ok(()), "another leads");
        heartbeat.progress();
        assert_eq!(heartbeat.is_progressing(), Ok(()));
        *heartbeat.due.lock().unwrap() = lately.checked_sub(Duration::from_secs(1));
        assert!(heartbeat.is_progressing().unwrap_err().contains("61"), "{:?}", heartbeat.is_progressing());
        heartbeat.stand_by();
        assert_eq!(heartbeat.is_progressing(), Ok(()));
    }
}
