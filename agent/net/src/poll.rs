//! Waiting for work that the kernel does asynchronously.

use std::time::Duration;

use super::error::NetError;

/// The pause between two polls, and the number of polls: 0.1 s in all.
const POLLS: (Duration, u32) = (Duration::from_micros(200), 500);

/// Polls until a worker of the kernel has done its work. Returns false if it has not within 0.1 s.
pub(super) fn poll_until(is_done: impl Fn() -> Result<bool, NetError>) -> Result<bool, NetError> {
    let (pause, polls) = POLLS;
    for _ in 0..polls {
        if is_done()? {
            return Ok(true);
        }
        std::thread::sleep(pause);
    }
    Ok(false)
}
