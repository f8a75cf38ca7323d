//! Metrics of the plugin's verbs.

use std::time::Duration;

use holdfast_cni::Verb;
use holdfast_core::latency::buckets;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabel {
    verb: String,
}

/// The durations of the plugin's verbs. Clones count together.
#[derive(Debug, Clone)]
pub struct VerbMetrics(Family<VerbLabel, Histogram, fn() -> Histogram>);

impl VerbMetrics {
    /// Registers the verbs' histogram.
    pub fn register(registry: &mut Registry) -> Self {
        let new = Self(Family::new_with_constructor(|| Histogram::new(buckets())));
        registry.register("holdfast_cni_seconds", "How long a verb of the plugin took", new.0.clone());
        new
    }

    /// A verb was answered.
    pub fn answered(&self, verb: Verb, took: Duration) {
        self.0.get_or_create(&VerbLabel { verb: verb.to_string() }).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_counted_under_the_documented_name() {
        let mut registry = Registry::default();
        VerbMetrics::register(&mut registry).answered(Verb::Add, Duration::from_millis(4));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = r#"holdfast_cni_seconds_count{verb="ADD"} 1"#;
        assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
    }
}
