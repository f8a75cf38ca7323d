//! Ownership of the laboratory: most tests share it, and a test that disturbs others (it ends an agent, stops a runtime,
//! cordons a node …) has it exclusively.
//!
//! Pods of any test may be on either node, so a node of its own would be no less than the laboratory.
//!
//! An exclusive test goes on once no test shares the laboratory. Others may begin until then, so that one which takes
//! minutes holds up the exclusive tests only.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};

/// Tests that share the laboratory at the same time: they wait much more than they work, and the machine is small.
const SHARED_AT_ONCE: usize = 6;

#[derive(Default)]
pub(crate) struct Laboratory {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    shared: usize,
    exclusive: bool,
    /// The reason why no further test can use it.
    broken: Option<String>,
}

/// The right to use the laboratory, until it is dropped.
pub(crate) struct Guard {
    laboratory: &'static Laboratory,
    exclusive: bool,
}

impl Laboratory {
    /// Waits until no test has the laboratory exclusively and few enough share it, and shares it.
    pub(crate) fn share(&'static self) -> Result<Guard> {
        self.wait_for(|state| !state.exclusive && state.shared < SHARED_AT_ONCE)?.shared += 1;
        Ok(Guard { laboratory: self, exclusive: false })
    }

    /// Waits until no other test has the laboratory, and takes it.
    pub(crate) fn take(&'static self) -> Result<Guard> {
        self.wait_for(|state| !state.exclusive && state.shared == 0)?.exclusive = true;
        Ok(Guard { laboratory: self, exclusive: true })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, free: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let waited = self.released.wait_while(self.state(), |state| state.broken.is_none() && !free(state));
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.broken {
            Some(reason) => bail!("the laboratory is broken: {reason}"),
            None => Ok(state),
        }
    }
}

impl Guard {
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Keeps further tests from a laboratory that this one has left broken: they would fail for no reason of their own.
    pub(crate) fn declare_broken(&self, reason: String) {
        self.laboratory.state().broken.get_or_insert(reason);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.laboratory.state();
        if self.exclusive {
            state.exclusive = false;
        } else {
            state.shared -= 1;
        }
        self.laboratory.released.notify_all();
    }
}
