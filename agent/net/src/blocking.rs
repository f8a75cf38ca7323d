//! Netlink on the runtime's blocking threads.

use super::error::NetError;

/// Runs `work` on one of the runtime's blocking threads. A caller that drops the future does not end the work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NetError::Worker(error.to_string()))?
}
