//! Running a suite's command and counting what it reports.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::{Add, AddAssign};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{cargo_program, parse_summary};

/// What suites reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
}

impl Tally {
    /// Runs a test runner, passes its output on and counts its summaries. A runner that fails without a failed test (it
    /// did not compile, say) counts as one failure.
    pub(super) fn of_tests(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut tally = Self::default();
        for line in BufReader::new(child.stdout.take().context("the runner's output")?).lines() {
            let line = line?;
            writeln!(std::io::stdout(), "{line}")?;
            tally += parse_summary(&line)?.unwrap_or_default();
        }
        if !child.wait()?.success() && tally.failed == 0 {
            tally.failed = 1;
        }
        Ok(tally)
    }

    /// Counts what test runners wrote. None that wrote a summary is one failure.
    pub(super) fn of_text(text: &str) -> Result<Self> {
        let summaries = text.lines().filter_map(|line| parse_summary(line).transpose()).collect::<Result<Vec<_>>>()?;
        if summaries.is_empty() {
            return Ok(Self { failed: 1, ..Self::default() });
        }
        Ok(summaries.into_iter().fold(Self::default(), Add::add))
    }

    /// Runs something that passes or fails as a whole.
    pub(super) fn of_check(what: &str, command: &mut Command) -> Result<Self> {
        let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
        println!("{what}: {}", if status.success() { "ok" } else { "FAILED" });
        let passed = usize::from(status.success());
        Ok(Self { passed, failed: 1 - passed, skipped: 0 })
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A cargo command.
pub(super) fn cargo(arguments: &[&str]) -> Command {
    let mut command = cargo_program();
    command.args(arguments);
    command
}
