//! What the controller counts.

use holdfast_api::ippool::IpPoolStatus;
use holdfast_core::collect::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    ippool: String,
}

/// Addresses collected, pools and their sizes, leadership. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct ControllerMetrics {
    collected: Family<ReasonLabel, Counter>,
    unbound: Family<ReasonLabel, Counter>,
    claimed: Family<ReasonLabel, Counter>,
    failures: Counter,
    events_dropped: Counter,
    pools: Gauge,
    total: Family<PoolLabel, Gauge>,
    available: Family<PoolLabel, Gauge>,
    leader: Gauge,
}

impl ControllerMetrics {
    /// Registers everything that the controller counts.
    pub fn register(registry: &mut Registry) -> Self {
        let new = Self::default();
        registry.register("spiderpool_ip_gc_counts", "Addresses collected", new.collected.clone());
        registry.register("holdfast_unbound", "Endpoints whose holder was gone", new.unbound.clone());
        registry.register("holdfast_claimed", "Claims made for addresses that were in use", new.claimed.clone());
        registry.register("spiderpool_ip_gc_failure_counts", "Collections that failed", new.failures.clone());
        registry.register("spiderpool_total_ippool_counts", "Pools", new.pools.clone());
        registry.register("spiderpool_debug_ippool_total_ip_counts", "Addresses of a pool", new.total.clone());
        registry.register(
            "spiderpool_debug_ippool_available_ip_counts",
            "Addresses of a pool that are not in use",
            new.available.clone(),
        );
        registry.register("holdfast_leader", "Whether this controller leads", new.leader.clone());
        registry.register(
            "holdfast_events_dropped",
            "Kubernetes events not written because too many were waiting",
            new.events_dropped.clone(),
        );
        new
    }

    pub(crate) fn collected(&self, reason: Reason, addresses: usize) {
        let counter = self.collected.get_or_create(&ReasonLabel { reason: reason.as_str() });
        counter.inc_by(u64::try_from(addresses).unwrap_or(u64::MAX));
    }

    pub(crate) fn unbound(&self, reason: Reason) {
        self.unbound.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    pub(crate) fn claimed(&self, reason: Reason) {
        self.claimed.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    pub(crate) fn pools(&self, count: usize) {
        self.pools.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn show_pool(&self, pool: &str, status: &IpPoolStatus) {
        let label = PoolLabel { ippool: pool.to_owned() };
        let (total, used) = (status.total_ip_count.unwrap_or(0), status.allocated_ip_count.unwrap_or(0));
        self.total.get_or_create(&label).set(total);
        self.available.get_or_create(&label).set((total - used).max(0));
    }

    pub(crate) fn forget_pool(&self, pool: &str) {
        let label = PoolLabel { ippool: pool.to_owned() };
        self.total.remove(&label);
        self.available.remove(&label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn names_are_the_documented_ones() {
        let mut registry = Registry::default();
        let metrics = ControllerMetrics::register(&mut registry);
        metrics.collected(Reason::PodGone, 2);
        metrics.unbound(Reason::NodeGone);
        metrics.claimed(Reason::Imported);
        let status = IpPoolStatus { total_ip_count: Some(9), allocated_ip_count: Some(2), ..IpPoolStatus::default() };
        metrics.show_pool("p", &status);
        let text = encode(&registry);
        for line in [
            r#"spiderpool_ip_gc_counts_total{reason="PodGone"} 2"#,
            r#"holdfast_unbound_total{reason="NodeGone"} 1"#,
            r#"holdfast_claimed_total{reason="Imported"} 1"#,
            "spiderpool_ip_gc_failure_counts_total 0",
            "spiderpool_total_ippool_counts 0",
            r#"spiderpool_debug_ippool_total_ip_counts{ippool="p"} 9"#,
            r#"spiderpool_debug_ippool_available_ip_counts{ippool="p"} 7"#,
            "holdfast_leader 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
        metrics.forget_pool("p");
        assert!(!encode(&registry).contains("ippool=\"p\""));
    }
}
