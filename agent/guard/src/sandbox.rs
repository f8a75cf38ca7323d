//! The ends of sandboxes' processes, as the kernel reports them.

use std::{io, os::fd::OwnedFd};

use aya::programs::links::FdLink;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    error::DatapathError,
    load::{Programs, SANDBOX},
    pins::{Pins, SANDBOX_EXIT, file_error, remove},
};

const TRACEPOINT: &str = "sched_process_exit";

/// The new link's pin until it replaces the old one.
const NEW_PIN: &str = "sandbox_exit-new";

/// Attaches the program. Returns false if the kernel refuses; the agent then uses pidfds.
pub(super) fn attach(programs: &mut Programs, pins: &Pins) -> bool {
    let attached = try_attach(programs, pins);
    if let Err(error) = &attached {
        tracing::warn!(%error, "the kernel does not report the end of sandboxes");
    }
    attached.is_ok()
}

fn try_attach(programs: &mut Programs, pins: &Pins) -> Result<(), DatapathError> {
    let refused = |source| DatapathError::Program { program: SANDBOX, source };
    let program = programs.sandbox()?;
    program.load().map_err(refused)?;
    let id = program.attach(TRACEPOINT).map_err(refused)?;
    let link = FdLink::from(program.take_link(id).map_err(refused)?);
    // The program of a tracepoint's link cannot be swapped, so for a moment there are two links. A sandbox that ends in
    // this moment is reported twice, which is harmless; with the old link gone first it would not be reported at all.
    let (path, new) = (pins.links().join(SANDBOX_EXIT), pins.links().join(NEW_PIN));
    remove(&new)?;
    link.pin(&new).map_err(|source| DatapathError::Pin { path: new.clone(), source })?;
    std::fs::rename(&new, &path).map_err(file_error(&path))?;
    Ok(())
}

/// Waits for the end of a process by its pidfd: the fallback where the kernel does not report it. Returns at once for a
/// process that has ended.
pub async fn ended(process: u32) -> io::Result<()> {
    let process = process.try_into().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let descriptor = match pidfd_open(process, PidfdFlags::NONBLOCK) {
        Err(Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    register(descriptor)?.readable().await.map(drop)
}

#[expect(unsafe_code, reason = "tokio cannot know that a descriptor stays the same")]
fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is its descriptor, and keeps it open until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_awaited() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let waiting = tokio::spawn(ended(child.id()));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        child.kill().unwrap();
        waiting.await.unwrap().unwrap();
        child.wait().unwrap();
        ended(child.id()).await.unwrap();
    }
}
