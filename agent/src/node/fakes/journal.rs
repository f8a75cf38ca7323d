//! The calls that the fakes took.

use std::sync::Arc;

use parking_lot::Mutex;

/// The calls that the fakes took, in order, as lines such as `links.delete c1 eth0`. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    failing: Vec<String>,
    hanging: Option<String>,
}

/// A call that was made to fail.
#[derive(Debug)]
pub(super) struct Injected;

impl Journal {
    /// Makes the next call fail whose line begins with `call`. Said more than once, more than one fails.
    pub fn fail(&self, call: &str) {
        self.0.lock().failing.push(call.to_owned());
    }

    /// Makes the next `async` call hang whose line begins with `call`.
    pub fn hang(&self, call: &str) {
        self.0.lock().hanging = Some(call.to_owned());
    }

    /// Returns the lines since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().lines)
    }

    /// Returns the lines since the last time, and leaves them.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// Writes a call down. An error: it is to fail, and to change nothing.
    pub(super) fn call(&self, line: String) -> Result<(), Injected> {
        let mut state = self.0.lock();
        let armed = state.failing.iter().position(|failing| line.starts_with(failing.as_str()));
        let fails = armed.map(|index| state.failing.remove(index)).is_some();
        state.lines.push(if fails { format!("{line}: failed") } else { line });
        if fails { Err(Injected) } else { Ok(()) }
    }

    /// As [`Self::call`], for a call that may be made to hang.
    pub(super) async fn call_async(&self, line: String) -> Result<(), Injected> {
        let hangs = self.0.lock().hanging.take_if(|hanging| line.starts_with(hanging.as_str())).is_some();
        if hangs {
            self.0.lock().lines.push(format!("{line}: hangs"));
            std::future::pending::<()>().await;
        }
        self.call(line)
    }
}
