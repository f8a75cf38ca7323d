//! Metrics of allocations and releases.

use std::time::Duration;

use holdfast_core::latency::buckets;
use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram},
    registry::Registry,
};

use crate::error::{ErrorClass, IpamError};

/// Allocations and releases. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct IpamMetrics {
    allocation: Outcomes,
    release: Outcomes,
}

#[derive(Debug, Clone)]
struct Outcomes {
    counts: Counter,
    failures: Counter,
    conflicts: Counter,
    internal: Counter,
    no_pool: Counter,
    retries: Counter,
    used_out: Counter,
    seconds: Histogram,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            counts: Counter::default(),
            failures: Counter::default(),
            conflicts: Counter::default(),
            internal: Counter::default(),
            no_pool: Counter::default(),
            retries: Counter::default(),
            used_out: Counter::default(),
            seconds: Histogram::new(buckets()),
        }
    }
}

impl Outcomes {
    fn register(&self, registry: &mut Registry) {
        registry.register("counts", "Requests", self.counts.clone());
        registry.register("failure_counts", "Requests that failed", self.failures.clone());
        let conflicts = "Writes that failed because the object had changed";
        registry.register("update_ippool_conflict_counts", conflicts, self.conflicts.clone());
        registry.register("err_internal_counts", "Failures of the API server or the agent", self.internal.clone());
        registry.register(
            "err_retries_exhausted_counts",
            "Failures because objects kept changing",
            self.retries.clone(),
        );
        registry.register("duration_seconds", "Duration of a request in seconds", self.seconds.clone());
    }

    fn ended<T>(&self, outcome: &Result<T, IpamError>, took: Duration) {
        self.counts.inc();
        self.seconds.observe(took.as_secs_f64());
        let Err(error) = outcome else { return };
        self.failures.inc();
        match error.class() {
            ErrorClass::Exhausted => self.used_out.inc(),
            ErrorClass::NoPool => self.no_pool.inc(),
            ErrorClass::Contended => self.retries.inc(),
            ErrorClass::ApiServer => self.internal.inc(),
            // The request is wrong or late: neither the agent nor the API server failed.
            ErrorClass::PodNotFound
            | ErrorClass::Stale
            | ErrorClass::InvalidAnnotation
            | ErrorClass::StaticIpUnavailable => return,
        };
    }
}

impl IpamMetrics {
    /// Registers the metrics and returns them.
    pub fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        let allocation = registry.sub_registry_with_prefix("spiderpool_ipam_allocation");
        new.allocation.register(allocation);
        allocation.register(
            "err_no_available_pool_counts",
            "Failures because the pod may use no pool",
            new.allocation.no_pool.clone(),
        );
        let used_out = "Failures because every address is in use";
        allocation.register("err_ip_used_out_counts", used_out, new.allocation.used_out.clone());
        new.release.register(registry.sub_registry_with_prefix("spiderpool_ipam_release"));
        new
    }

    pub(crate) fn allocated<T>(&self, outcome: &Result<T, IpamError>, took: Duration) {
        self.allocation.ended(outcome, took);
    }

    pub(crate) fn released<T>(&self, outcome: &Result<T, IpamError>, took: Duration) {
        self.release.ended(outcome, took);
    }

    pub(crate) fn allocation_conflict(&self) {
        self.allocation.conflicts.inc();
    }

    pub(crate) fn release_conflict(&self) {
        self.release.conflicts.inc();
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::id::PodName;

    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let mut registry = Registry::default();
        let metrics = IpamMetrics::register(&mut registry);
        let contended: Result<(), _> = Err(IpamError::Contended(PodName::new("n", "p")));
        metrics.allocated(&contended, Duration::from_millis(4));
        metrics.released(&Ok(()), Duration::from_millis(4));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "spiderpool_ipam_allocation_counts_total 1",
            "spiderpool_ipam_allocation_failure_counts_total 1",
            "spiderpool_ipam_allocation_update_ippool_conflict_counts_total 0",
            "spiderpool_ipam_allocation_err_internal_counts_total 0",
            "spiderpool_ipam_allocation_err_no_available_pool_counts_total 0",
            "spiderpool_ipam_allocation_err_retries_exhausted_counts_total 1",
            "spiderpool_ipam_allocation_err_ip_used_out_counts_total 0",
            "spiderpool_ipam_allocation_duration_seconds_count 1",
            "spiderpool_ipam_release_counts_total 1",
            "spiderpool_ipam_release_failure_counts_total 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
        assert!(!text.contains("release_err_ip_used_out"));
    }
}
