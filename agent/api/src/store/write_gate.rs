//! The gate before every write of a store. Of several controllers one leads: the gates of the others are closed, and the
//! leader's closes by itself when its lease may have expired, even if the process slept through that moment.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

/// Says whether a store may write now. Clones share one state.
#[derive(Debug, Clone)]
pub struct WriteGate(Arc<Mutex<GateState>>);

#[derive(Debug, Clone, Copy)]
enum GateState {
    AlwaysOpen,
    OpenUntil(Instant),
    Closed,
}

impl WriteGate {
    /// Returns a gate that stays open. Agents have one: each writes for its own node.
    pub fn always_open() -> Self {
        Self(Arc::new(Mutex::new(GateState::AlwaysOpen)))
    }

    /// Returns a gate that is closed until [`Self::open_until`].
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new(GateState::Closed)))
    }

    /// Opens the gate until `until`.
    pub fn open_until(&self, until: Instant) {
        *self.0.lock() = GateState::OpenUntil(until);
    }

    /// Closes the gate.
    pub fn close(&self) {
        *self.0.lock() = GateState::Closed;
    }

    /// Returns true while writes are allowed.
    pub fn is_open(&self) -> bool {
        match *self.0.lock() {
            GateState::AlwaysOpen => true,
            GateState::OpenUntil(until) => Instant::now() < until,
            GateState::Closed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_open_gate_closes_by_itself() {
        let gate = WriteGate::closed();
        let shared = gate.clone();
        assert!(!shared.is_open());
        gate.open_until(Instant::now() + Duration::from_secs(60));
        assert!(shared.is_open());
        gate.open_until(Instant::now());
        assert!(!shared.is_open());
        gate.close();
        assert!(!shared.is_open() && WriteGate::always_open().is_open());
    }
}
