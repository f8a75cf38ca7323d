//! Holding the lease: looks at it again and again, and gives the store leave to write while it is ours.

use std::time::{Duration, Instant};

use holdfast_api::store::{Leases, StoreError, WriteGate};
use holdfast_core::election::{Election, LeaseFacts, LeaseTimings, Step};
use kube::ResourceExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who leads, as this elector knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// Until when this elector does, if it does.
    pub until: Option<Instant>,
    /// The leader's identity; none before it is known.
    pub holder: Option<String>,
    /// When the lease was last read.
    pub looked: Instant,
}

impl Leadership {
    /// Whether this elector leads at this moment.
    pub fn leads(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// A elector.
pub(super) struct LeaderElector {
    leases: Leases,
    identity: String,
    lease_timings: LeaseTimings,
    election: Election,
    gate: WriteGate,
    started: Instant,
    state: watch::Sender<Leadership>,
}

impl LeaderElector {
    pub(super) fn new(leases: Leases, identity: &str, lease_timings: LeaseTimings, gate: WriteGate) -> Self {
        let started = Instant::now();
        let (state, _) = watch::channel(Leadership { until: None, holder: None, looked: started });
        let election = Election::new(identity, lease_timings);
        Self { leases, identity: identity.to_owned(), lease_timings, election, gate, started, state }
    }

    pub(super) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.state.subscribe()
    }

    /// Stands until `stop`, then gives the lease back, so that another leads at once.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let looked = Instant::now();
            // A look that hangs must not keep this elector from trying again while it still leads.
            match tokio::time::timeout(self.lease_timings.retry, self.look()).await {
                Ok(Ok(())) => self.publish(Instant::now()),
                Ok(Err(error)) if error.is_conflict() => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot look after the lease; trying again"),
                Err(_) => tracing::warn!("the API server does not answer about the lease; trying again"),
            }
            self.step_down_if_over();
            let until = self.leads_until();
            let next = looked + self.lease_timings.retry;
            let next = until.map_or(next, |until| next.min(until));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next.into()) => self.step_down_if_over(),
            }
        }
        self.give_back().await;
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let lease = self.leases.read().await?;
        let version = lease.as_ref().and_then(ResourceExt::resource_version).unwrap_or_default();
        let facts = lease.as_ref().map(|lease| {
            let spec = lease.spec.as_ref();
            let seconds =
                spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
            LeaseFacts {
                holder: spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default(),
                version: &version,
                duration: seconds.map_or(self.lease_timings.duration, Duration::from_secs),
            }
        });
        if self.election.step(facts, self.started.elapsed()) == Step::Wait {
            self.gate.close();
            return Ok(());
        }
        let sent = self.started.elapsed();
        let seconds = i32::try_from(self.lease_timings.duration.as_secs()).unwrap_or(i32::MAX);
        let written = self.leases.write(lease.as_ref(), &self.identity, seconds).await?;
        self.election.record_write(&written.resource_version().unwrap_or_default(), sent);
        if let Some(until) = self.leads_until() {
            self.gate.open_until(until);
        }
        Ok(())
    }

    fn leads_until(&self) -> Option<Instant> {
        self.election.leads_until().map(|until| self.started + until)
    }

    fn publish(&self, looked: Instant) {
        let next = Leadership { until: self.leads_until(), holder: self.election.holder().map(str::to_owned), looked };
        let before = self.state.send_replace(next.clone());
        if before.holder != next.holder {
            tracing::info!(leader = next.holder, here = next.leads(), "the lease has a new holder");
        }
    }

    /// The gate has closed by itself; the watchers of the state are told.
    fn step_down_if_over(&self) {
        let over = |state: &Leadership| state.until.is_some() && !state.leads();
        if over(&self.state.borrow()) {
            tracing::warn!("the lease was not renewed in time: this controller leads no more");
            self.gate.close();
            self.state.send_modify(|state| state.until = None);
        }
    }

    async fn give_back(&mut self) {
        self.gate.close();
        if self.election.leads_until().is_none() {
            return;
        }
        let release = async {
            let lease = self.leases.read().await?;
            let ours = |lease: &k8s_openapi::api::coordination::v1::Lease| {
                lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.identity)
            };
            match lease.filter(ours) {
                Some(lease) => self.leases.write(Some(&lease), "", 1).await.map(drop),
                None => Ok(()),
            }
        };
        match tokio::time::timeout(self.lease_timings.retry, release).await {
            Ok(Ok(())) => tracing::info!("gave the lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back; it runs out"),
            Err(_) => tracing::warn!("the lease was not given back in time; it runs out"),
        }
    }
}
