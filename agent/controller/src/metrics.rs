//! The controller's metrics, each registered beside what it counts.

use prometheus_client::registry::Registry;

use crate::{leader_election::LeaderMetrics, outcome_recorder::OutcomeMetrics, pool_status::PoolMetrics};

/// The metrics of a controller. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct ControllerMetrics {
    pub(crate) outcomes: OutcomeMetrics,
    pub(crate) pools: PoolMetrics,
    pub(crate) leader: LeaderMetrics,
}

impl ControllerMetrics {
    /// Registers all metrics of the controller.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            outcomes: OutcomeMetrics::register(registry),
            pools: PoolMetrics::register(registry),
            leader: LeaderMetrics::register(registry),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_api::ippool::IpPoolStatus;
    use holdfast_core::collect::Reason;

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
        metrics.outcomes.collected(Reason::PodGone, 2);
        metrics.outcomes.unbound(Reason::NodeGone);
        metrics.outcomes.claimed(Reason::Imported);
        let status = IpPoolStatus { total_ip_count: Some(9), allocated_ip_count: Some(2), ..IpPoolStatus::default() };
        metrics.pools.set_pool("p", &status);
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
            "holdfast_events_dropped_total 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
        metrics.pools.remove_pool("p");
        assert!(!encode(&registry).contains("ippool=\"p\""));
    }
}
