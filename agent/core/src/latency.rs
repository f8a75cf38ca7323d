//! The bounds of latency histograms.

/// Returns bucket bounds in seconds, from half a millisecond, each twice the one before: an ADD takes about five
/// milliseconds.
pub fn buckets() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(0.0005), |bound| Some(bound * 2.0)).take(16)
}
