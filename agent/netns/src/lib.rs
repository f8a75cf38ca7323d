//! Work in another network namespace.
//!
//! ```text
//!   caller, in its namespace ── run_in ──▶ new thread: setns ──▶ work ──▶ thread ends, the caller has the result
//! ```
//!
//! The namespace is a property of a thread, and the threads of a runtime have to stay in the node's namespace. So the
//! work runs on a thread of its own. A socket that it opens stays in that namespace and can be used from any thread.
#![forbid(unsafe_code)]

use std::{io, os::fd::AsFd};

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a new thread in the network namespace, and returns its result when the thread has ended. The thread
/// shares the mounts of the process, and with them bpffs. Fails, without running `work`, if the kernel refuses the
/// thread or the namespace. Panics if `work` panics.
pub fn run_in<T: Send>(netns: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let netns = netns.as_fd();
    let in_netns = || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, in_netns)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_that_is_not_a_namespace_is_refused_before_the_work_runs() {
        let refused = run_in(File::open("/dev/null").unwrap(), || panic!("the work ran"));
        assert!(refused.is_err());
    }
}
