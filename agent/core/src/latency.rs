//! The buckets of latency histograms.

/// Returns bucket bounds in seconds: 16 from half a millisecond up, each twice the one before. An ADD takes about five
/// milliseconds.
pub fn buckets() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(0.0005), |bound| Some(bound * 2.0)).take(16)
}
