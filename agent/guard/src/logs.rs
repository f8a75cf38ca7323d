//! The programs' log lines, for debugging the guard.

use aya_log::EbpfLogger;
use log::Log;
use tokio::io::{Interest, unix::AsyncFd};

use crate::error::DatapathError;

/// The programs' log. It goes to the logger of the `log` crate, which `tracing` is where it is set up.
pub struct Logs(pub(super) EbpfLogger<&'static dyn Log>);

impl Logs {
    /// Forwards lines until waiting for them fails. Cancel safe.
    pub async fn forward(self) -> DatapathError {
        let mut ring = match register(self.0) {
            Ok(ring) => ring,
            Err(error) => return DatapathError::Wait(error),
        };
        loop {
            match ring.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    // A line that arrives meanwhile sets the readiness again.
                    ready.clear_ready();
                }
                Err(error) => return DatapathError::Wait(error),
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio cannot know that the logger keeps its descriptor")]
fn register<T>(logger: EbpfLogger<T>) -> std::io::Result<AsyncFd<EbpfLogger<T>>> {
    // SAFETY: the logger owns its ring, which gives out the same descriptor every time and keeps it open until dropped.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    registered.map_err(Into::into)
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logs")
    }
}
