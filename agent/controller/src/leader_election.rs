//! Leader election: reads and renews the Lease, and opens the store's write gate while this replica holds it.

use std::time::{Duration, Instant};

use holdfast_api::store::{Leases, StoreError, WriteGate};
use holdfast_core::election::{Election, LeaseFacts, LeaseTimings, Step};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The leader, as this replica knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The time until which this replica leads, if it does.
    pub until: Option<Instant>,
    /// The leader's identity; none before it is known.
    pub holder: Option<String>,
    /// The time at which the Lease was last read.
    pub observed: Instant,
}

impl Leadership {
    /// Returns whether this replica leads now.
    pub fn leads(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// A replica that stands for election.
pub(crate) struct LeaderElector {
    leases: Leases,
    identity: String,
    lease_timings: LeaseTimings,
    election: Election,
    gate: WriteGate,
    started: Instant,
    state: watch::Sender<Leadership>,
}

impl LeaderElector {
    pub(crate) fn new(leases: Leases, identity: &str, lease_timings: LeaseTimings, gate: WriteGate) -> Self {
        let started = Instant::now();
        let (state, _) = watch::channel(Leadership { until: None, holder: None, observed: started });
        let election = Election::new(identity, lease_timings);
        Self { leases, identity: identity.to_owned(), lease_timings, election, gate, started, state }
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.state.subscribe()
    }

    /// Stands for election until `stop`, then gives the Lease back, so that another replica leads at once.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let begun = Instant::now();
            // A request that hangs must not keep this replica from trying again while it still leads.
            match tokio::time::timeout(self.lease_timings.retry, self.acquire_or_renew()).await {
                Ok(Ok(())) => self.publish(Instant::now()),
                Ok(Err(error)) if error.is_conflict() => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot acquire or renew the lease; trying again"),
                Err(_) => tracing::warn!("the API server does not answer about the lease; trying again"),
            }
            self.step_down_if_over();
            let until = self.leads_until();
            let next = begun + self.lease_timings.retry;
            let next = until.map_or(next, |until| next.min(until));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next.into()) => self.step_down_if_over(),
            }
        }
        self.release().await;
    }

    async fn acquire_or_renew(&mut self) -> Result<(), StoreError> {
        let lease = self.leases.read().await?;
        let version = lease.as_ref().and_then(ResourceExt::resource_version).unwrap_or_default();
        let facts = lease.as_ref().map(|lease| {
            let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            LeaseFacts {
                holder: holder_of(lease).unwrap_or_default(),
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

    fn publish(&self, observed: Instant) {
        let next =
            Leadership { until: self.leads_until(), holder: self.election.holder().map(str::to_owned), observed };
        let before = self.state.send_replace(next.clone());
        if before.holder != next.holder {
            tracing::info!(leader = next.holder, here = next.leads(), "the lease has a new holder");
        }
    }

    /// Tells the tasks that wait for the end of this replica's leadership. The gate has closed by itself by then.
    fn step_down_if_over(&self) {
        let over = |state: &Leadership| state.until.is_some() && !state.leads();
        if over(&self.state.borrow()) {
            tracing::warn!("the lease was not renewed in time: this controller does not lead any more");
            self.gate.close();
            self.state.send_modify(|state| state.until = None);
        }
    }

    async fn release(&mut self) {
        self.gate.close();
        if self.election.leads_until().is_none() {
            return;
        }
        let release = async {
            let lease = self.leases.read().await?;
            match lease.filter(|lease| holder_of(lease) == Some(&self.identity)) {
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

fn holder_of(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
}

/// The gauge of leadership.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaderMetrics(Gauge);

impl LeaderMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        registry.register("holdfast_leader", "1 while this controller leads, else 0", new.0.clone());
        new
    }

    pub(crate) fn set(&self, leads: bool) {
        self.0.set(leads.into());
    }
}
