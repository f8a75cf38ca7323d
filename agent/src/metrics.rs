//! What is counted. The registry is passed in; each part registers what it counts and keeps its handles.
//!
//! Names are those that Spiderpool documents, so dashboards go on working; what holdfast adds begins with `holdfast_`.
//! No label holds the name of a pod.

mod allocation;
mod controller;
mod guard;

use prometheus_client::registry::Registry;

pub use allocation::{AllocationMetrics, VerbMetrics};
pub use controller::ControllerMetrics;
pub use guard::GuardMetrics;

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is registered, as text.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail; a metric that cannot be encoded is a mistake in the metric.
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
        tracing::error!(%error, "the metrics could not be written");
    }
    text
}

/// Buckets in seconds, from half a millisecond on: an ADD takes about five.
fn buckets() -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(0.0005, 2.0, 16)
}
