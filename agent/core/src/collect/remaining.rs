//! Time that remains until a deadline.

use std::time::Duration;

/// Returns the part of `whole` that remains after `elapsed`; none once it is over.
pub(super) fn remaining(whole: Duration, elapsed: Duration) -> Option<Duration> {
    whole.checked_sub(elapsed).filter(|remaining| !remaining.is_zero())
}
