//! Processes that outlive the task: started detached, recorded with their start time, found again, ended.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use crate::progress::{Poll, Progress, tail};

/// The time that a process has to end after SIGTERM.
const POLITE: Duration = Duration::from_secs(5);
/// The shell script that joins the cgroups named before `--` and then executes the command after it, so that no child
/// is ever outside.
const JOIN: &str = r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit 1; shift; done; shift; exec "$@""#;

/// A process by PID and start time: the PID alone may have been reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// The PID.
    pub(super) pid: i32,
    started: u64,
}

impl Process {
    /// Returns the process `pid`, if it is alive.
    pub(super) fn running(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may itself hold spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, started) = (fields.first()?, fields.get(19)?);
        (!matches!(*state, "Z" | "X")).then_some(Self { pid, started: started.parse().ok()? })
    }

    /// Returns true if it still runs.
    pub(super) fn alive(self) -> bool {
        Self::running(self.pid) == Some(self)
    }

    /// Ends it with SIGTERM, then with SIGKILL.
    pub(super) fn end(self, what: &str, progress: &Progress) -> Result<()> {
        let gone = |limit| {
            progress.wait(&format!("the end of {what}"), limit, || {
                Ok(if self.alive() { Poll::Pending("it still runs".into()) } else { Poll::Ready(()) })
            })
        };
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if self.alive() {
                let _ = kill(Pid::from_raw(self.pid), signal);
            }
            if gone(POLITE).is_ok() {
                return Ok(());
            }
        }
        bail!("{what} (process {}) does not end, not even when killed", self.pid)
    }
}

/// A process of ours by name: its record and its log.
pub(super) struct Service<'a> {
    /// Its name in messages and files.
    pub(super) name: &'a str,
    /// The folder of the place it belongs to.
    pub(super) folder: &'a Path,
}

impl Service<'_> {
    fn record(&self) -> PathBuf {
        self.folder.join("pids").join(self.name)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log").join(format!("{}.log", self.name))
    }

    /// Returns the process of the last start, if it still runs.
    pub(super) fn running(&self) -> Option<Process> {
        let text = fs::read_to_string(self.record()).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let process = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
        process.alive().then_some(process)
    }

    /// Returns an error with the end of its log if it does not run.
    pub(super) fn check(&self) -> Result<()> {
        match self.running() {
            Some(_) => Ok(()),
            None => bail!("{} has ended. The end of {}:\n{}", self.name, self.log().display(), tail(&self.log())),
        }
    }

    /// Returns true if its log has these words since its last start.
    pub(super) fn has_said(&self, words: &str) -> bool {
        fs::read_to_string(self.log()).is_ok_and(|log| log.contains(words))
    }

    /// Starts `command` in `cgroup`, detached from this process, its output in the log.
    pub(super) fn start(&self, command: &Command, cgroup: &Cgroup) -> Result<Process> {
        let process = self.spawn(self.open_log()?, command, cgroup)?;
        self.keep_record(process)?;
        Ok(process)
    }

    /// Opens a new log beside that of the last start, for [`Self::spawn`] in any mount namespace.
    pub(super) fn open_log(&self) -> Result<File> {
        fs::create_dir_all(self.log().parent().context("a file in a folder")?)?;
        if self.log().exists() {
            fs::rename(self.log(), self.log().with_extension("log.before"))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        log.with_context(|| format!("opening {}", self.log().display()))
    }

    /// Makes [`Self::running`] know the process.
    pub(super) fn keep_record(&self, process: Process) -> Result<()> {
        let record = self.record();
        fs::create_dir_all(record.parent().context("a file in a folder")?)?;
        fs::write(&record, format!("{} {}\n", process.pid, process.started))
            .with_context(|| format!("writing {}", record.display()))
    }

    /// Starts `command` in `cgroup`, with the namespaces that this thread has, and touches no files of the service: the
    /// thread may see others under their paths.
    pub(super) fn spawn(&self, log: File, command: &Command, cgroup: &Cgroup) -> Result<Process> {
        let mut detached = Command::new("setsid");
        detached.args(["sh", "-c", JOIN, "sh"]).args(cgroup.doors()).arg("--");
        detached.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => detached.env(name, value),
                None => detached.env_remove(name),
            };
        }
        detached.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        let child = detached
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        let pid = i32::try_from(child.id())?;
        Process::running(pid).with_context(|| format!("{} ended at once; see {}", self.name, self.log().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = Process::running(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(!Process { started: own.started + 1, ..own }.alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let ended = || Ok(if Process::running(pid).is_none() { Poll::Ready(()) } else { Poll::Pending(String::new()) });
        Progress::new().wait("the child's end", POLITE, ended).unwrap();
        child.wait().unwrap();
    }
}
