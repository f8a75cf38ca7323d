//! Leave to write. Of several controllers one leads; the others' stores refuse to write, and so does the leader's as
//! soon as its time is over, even if the process slept through the moment.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Whether a store may write now. Clones share one answer.
#[derive(Debug, Clone)]
pub struct Permit(Arc<Mutex<Leave>>);

#[derive(Debug, Clone, Copy)]
enum Leave {
    Always,
    Until(Instant),
    Never,
}

impl Permit {
    /// Leave that does not end: an agent's, who writes for its own node.
    pub fn always() -> Self {
        Self(Arc::new(Mutex::new(Leave::Always)))
    }

    /// No leave until one is granted.
    pub fn none() -> Self {
        Self(Arc::new(Mutex::new(Leave::Never)))
    }

    /// Leave until `until`.
    pub fn grant(&self, until: Instant) {
        self.set(Leave::Until(until));
    }

    /// No more leave.
    pub fn revoke(&self) {
        self.set(Leave::Never);
    }

    fn set(&self, leave: Leave) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = leave;
    }

    /// Whether there is leave at this moment.
    pub fn holds(&self) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Leave::Always => true,
            Leave::Until(until) => Instant::now() < until,
            Leave::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn leave_ends_by_itself() {
        let permit = Permit::none();
        let shared = permit.clone();
        assert!(!shared.holds());
        permit.grant(Instant::now() + Duration::from_secs(60));
        assert!(shared.holds());
        permit.grant(Instant::now());
        assert!(!shared.holds());
        permit.revoke();
        assert!(!shared.holds() && Permit::always().holds());
    }
}
