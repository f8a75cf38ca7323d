//! Whose turn it is: a test that disturbs others waits until none runs. Others begin meanwhile, so that one which goes on
//! for minutes holds up nobody but those.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct Turns {
    running: Mutex<Running>,
    ended: Condvar,
}

#[derive(Default)]
struct Running {
    shared: usize,
    alone: bool,
}

/// A test's turn, for as long as it is kept.
pub(crate) struct Turn {
    turns: &'static Turns,
    alone: bool,
}

impl Turns {
    /// A turn beside others.
    pub(crate) fn shared(&'static self) -> Turn {
        self.once(|running| !running.alone).shared += 1;
        Turn { turns: self, alone: false }
    }

    /// A turn with nobody else.
    pub(crate) fn alone(&'static self) -> Turn {
        self.once(|running| !running.alone && running.shared == 0).alone = true;
        Turn { turns: self, alone: true }
    }

    fn once(&self, free: impl Fn(&Running) -> bool) -> MutexGuard<'_, Running> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.ended.wait_while(running, |running| !free(running)).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.turns.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.alone {
            running.alone = false;
        } else {
            running.shared -= 1;
        }
        self.turns.ended.notify_all();
    }
}
