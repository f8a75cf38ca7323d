//! Sandboxes whose death the kernel reports.

use std::{io, os::fd::OwnedFd};

use aya::{maps::MapError, programs::links::FdLink};
use holdfast_abi::Sandbox;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Datapath, DatapathError,
    load::{Programs, SANDBOX},
    maps::{failed, removed},
    pins::Pins,
};

const TRACEPOINT: &str = "sched_process_exit";

/// The pin of the tracepoint's link.
pub(super) const PIN: &str = "sandbox_exit";
/// Where the new link is pinned until it takes the old one's place.
const NEW_PIN: &str = "sandbox_exit-new";

/// Attaches the program. False if the kernel refuses; the agent then has to use pidfds.
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
    // The program of such a link cannot be swapped, so for a moment there are two. A sandbox that ends in this moment is
    // reported twice, which is harmless: the second event finds a death that is known. None would be lost the other way
    // round.
    let (path, new) = (pins.links().join(PIN), pins.links().join(NEW_PIN));
    super::pins::remove(&new)?;
    link.pin(&new).map_err(|source| DatapathError::Pin { path: new.clone(), source })?;
    std::fs::rename(&new, &path).map_err(super::pins::file_error(&path))?;
    Ok(())
}

impl Datapath {
    /// Whether the kernel reports the end of watched sandboxes; if not, pidfds have to.
    pub fn watches_sandboxes(&self) -> bool {
        self.state().watches_sandboxes
    }

    /// Reports the end of a process as the death of the container's sandbox. `process` is the ID that the node knows it
    /// by. Whoever calls this has to look afterwards whether the process is still there: it may have ended before.
    ///
    /// It stays watched after the report, until [`Self::forget_sandbox`] says that the death has been dealt with: an agent
    /// that ends before leaves it for the next one to find.
    pub fn watch_sandbox(&self, process: u32, container_tag: u64) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.maps.sandboxes.insert(process, Sandbox { container_tag }, 0).map_err(failed("SANDBOXES"))
    }

    /// Forgets a watched process. No error if it was not watched (any more).
    pub fn forget_sandbox(&self, process: u32) -> Result<(), DatapathError> {
        removed("SANDBOXES", self.state().maps.sandboxes.remove(&process))
    }

    /// As [`Self::forget_sandbox`], unless the process is watched for another container by now: process IDs come again.
    pub fn forget_sandbox_of(&self, process: u32, container_tag: u64) -> Result<(), DatapathError> {
        let mut state = self.state();
        match state.maps.sandboxes.get(&process, 0) {
            Ok(sandbox) if sandbox.container_tag == container_tag => {
                removed("SANDBOXES", state.maps.sandboxes.remove(&process))
            }
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("SANDBOXES")(error)),
        }
    }

    /// Processes that are watched, with their containers' tags. One of them that no longer exists ended without anybody
    /// having dealt with it: the event found no room, or the agent that heard it ended first.
    pub fn sandboxes(&self) -> Result<Vec<(u32, u64)>, DatapathError> {
        let state = self.state();
        let entries = state.maps.sandboxes.iter();
        entries
            .map(|entry| entry.map(|(process, value)| (process, value.container_tag)).map_err(failed("SANDBOXES")))
            .collect()
    }
}

/// Waits for the end of a process by its descriptor: the fallback where the kernel does not report it. Answers at once
/// for a process that has ended.
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
