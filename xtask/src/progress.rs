//! The progress of a task, on the terminal: each step, its waits, and the time.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The time until the first reminder of a long step; the intervals after that grow.
const REMINDER: Duration = Duration::from_secs(10);
/// The pause between two polls of a condition: shorter than a person notices, long enough to cost nothing.
const POLL: Duration = Duration::from_millis(50);
/// Lines of a failed command's output that the error shows.
const SHOWN_LINES: usize = 20;

/// One look at a condition that is waited for.
pub enum Poll<T> {
    /// The condition holds, with this result.
    Ready(T),
    /// The condition does not hold yet, for this reason.
    Pending(String),
}

/// Lines on standard error, each with the seconds since the task began. Standard output stays free for results.
pub struct Progress {
    started: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Returns a progress whose clock starts now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Prints one line.
    pub fn log(&self, text: impl AsRef<str>) {
        eprintln!("[{:6.1} s] {}", self.started.elapsed().as_secs_f32(), text.as_ref());
    }

    /// Runs a command that may take long, its output in `log`. A failure shows the end of that output.
    pub fn run(&self, what: &str, command: &mut Command, log: &Path) -> Result<()> {
        self.log(what);
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let begun = Instant::now();
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{what}: cannot start `{program}`; is it installed?"))?;
        let mut reminder = REMINDER;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() >= reminder {
                reminder += (reminder / 2).max(REMINDER);
                self.log(format!("  still {what} ({} s){}", begun.elapsed().as_secs(), last_line(log)));
            }
            std::thread::sleep(POLL);
        };
        if !status.success() {
            bail!("{what}: `{program}` ended with {status}. The end of {}:\n{}", log.display(), tail(log));
        }
        Ok(())
    }

    /// Polls a condition until it holds or `limit` is over. An error from `look` ends the wait at once.
    pub fn wait<T>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
        let begun = Instant::now();
        let mut reminder = REMINDER;
        loop {
            let reason = match look().with_context(|| format!("waiting for {what}"))? {
                Poll::Ready(found) => return Ok(found),
                Poll::Pending(reason) => reason,
            };
            if begun.elapsed() >= limit {
                bail!("{what}: not within {} s; last: {reason}", limit.as_secs());
            }
            if begun.elapsed() >= reminder {
                reminder += (reminder / 2).max(REMINDER);
                self.log(format!("  waiting for {what} ({} s): {reason}", begun.elapsed().as_secs()));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Returns the last lines of a log, for an error's text.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// Returns the last line of a command's output, for a reminder; empty if there is none.
fn last_line(log: &Path) -> String {
    let text = tail(log);
    let line = text.lines().last().unwrap_or_default().trim();
    if line.is_empty() { String::new() } else { format!(": {}", line.chars().take(100).collect::<String>()) }
}

/// Runs a short command and returns its standard output. A failure carries the command line and its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let result = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {line}"))?;
    if !result.status.success() {
        bail!("{line}: {}: {}", result.status, String::from_utf8_lossy(&result.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_last_reason() {
        let error = Progress::new().wait::<()>("the moon", Duration::ZERO, || Ok(Poll::Pending("clouds".into())));
        assert_eq!(error.unwrap_err().to_string(), "the moon: not within 0 s; last: clouds");
    }

    #[test]
    fn a_failed_command_shows_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let error = Progress::new().run("failing", Command::new("sh").args(["-c", "echo because; exit 3"]), &log);
        assert!(error.unwrap_err().to_string().ends_with("because"));
    }
}
