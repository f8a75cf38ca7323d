//! The result of judging an object from the caches.

use std::time::Duration;

/// The result of judging an object from the caches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assessment<T> {
    /// The object is in order until it changes.
    Keep,
    /// The object is in order for this long; then it is judged again.
    RequeueAfter(Duration),
    /// The object looks wrong: a live read decides.
    Act(T),
}
