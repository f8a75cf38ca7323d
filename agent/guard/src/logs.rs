//! Lines that the programs log about what is no event, for whoever debugs the guard.

use aya_log::EbpfLogger;
use log::Log;
use tokio::io::{Interest, unix::AsyncFd};

use super::{Datapath, DatapathError, load::LOGS};

/// The level at which programs log; they have no other.
pub(super) const DEBUG: u8 = 4;
/// Nothing is logged.
pub(super) const OFF: u8 = 0;

/// The programs' log. It goes to the `log` crate's logger, which is tracing's where that is set up.
pub struct Logs(EbpfLogger<&'static dyn Log>);

impl Datapath {
    /// The programs' log; `None` if [`super::Config::logs`] is off, or somebody has it already.
    pub fn logs(&self) -> Result<Option<Logs>, DatapathError> {
        let mut state = self.state();
        if !state.logs {
            return Ok(None);
        }
        match state.programs.logger() {
            Ok(logger) => Ok(Some(Logs(logger))),
            Err(aya_log::Error::MapNotFound) => Ok(None),
            Err(source) => Err(DatapathError::Logs { map: LOGS, source }),
        }
    }
}

impl Logs {
    /// Passes lines on until waiting for them fails. Cancel safe.
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
