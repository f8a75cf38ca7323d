//! The controller's life: fill the caches, stand for election, work while leading, give the Lease back.

use std::sync::Arc;

use holdfast_api::store::{Leases, Store, WriteGate};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    context::Context,
    heartbeat::Heartbeat,
    leader_election::{LeaderElector, Leadership},
    metrics::ControllerMetrics,
    outcome_recorder::OutcomeRecorder,
    reconcile::Reconciler,
    reflectors::Reflectors,
    settings::Settings,
};

/// The name of the Lease.
const LEASE: &str = "holdfast-controller";

/// A replica of the controller.
pub struct Controller {
    context: Arc<Context>,
    elector: LeaderElector,
    metrics: ControllerMetrics,
}

impl Controller {
    /// Returns a controller that writes through `store`. Its watches start now, through `watches`, and its event writer;
    /// both run in `tasks`.
    pub fn start(
        store: Store,
        watches: &Client,
        settings: Settings,
        metrics: ControllerMetrics,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let reflectors = Reflectors::start(watches, tasks);
        let gate = WriteGate::closed();
        let leases = Leases::new(store.client().clone(), &settings.namespace, LEASE);
        let store = store.with_write_gate(gate.clone());
        let outcomes = OutcomeRecorder::start(store.clone(), &settings.identity, metrics.outcomes.clone(), tasks);
        let elector = LeaderElector::new(leases, &settings.identity, settings.lease_timings, gate);
        let heartbeat = Heartbeat::new(elector.leadership(), settings.lease_timings.duration);
        let context = Arc::new(Context::new(store, reflectors, settings, outcomes, heartbeat));
        Self { context, elector, metrics }
    }

    /// Returns the state that the health endpoints report.
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.context.heartbeat)
    }

    /// Works whenever it leads, until `stop`; then gives the Lease back.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { context, elector, metrics } = self;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            synced = context.reflectors.synced() => synced?,
        }
        context.heartbeat.set_synced();
        tracing::info!(identity = context.settings.identity, "the caches are filled; standing for election");
        let mut leadership = elector.leadership();
        let stop_election = CancellationToken::new();
        let election = AbortOnDropHandle::new(tokio::spawn(elector.run(stop_election.clone())));
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                led = leadership.wait_for(Leadership::leads) => drop(led?),
            }
            metrics.leader.set(true);
            context.heartbeat.progress();
            let mut watched = leadership.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                over = watched.wait_for(|state| !state.leads()) => drop(over?),
                () = Reconciler::new(&context, metrics.pools.clone()).run() => {}
            }
            metrics.leader.set(false);
            context.heartbeat.stand_by();
            // While another replica leads, no reconciliation takes the changes. A new leader scans everything anyway.
            context.reflectors.changes().add_everything();
        }
        // The reconciler was dropped above, so no write of it is under way when the Lease is free.
        stop_election.cancel();
        election.await?;
        Ok(())
    }
}
