//! Running a suite's command and counting what it reports.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::{Add, AddAssign};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The counts that suites reported.
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

    /// Counts what this many test runners wrote. One that wrote no summary did not get to its end, which is a failure.
    pub(super) fn of_text(text: &str, runners: usize) -> Result<Self> {
        let summaries = text.lines().filter_map(|line| parse_summary(line).transpose()).collect::<Result<Vec<_>>>()?;
        // More than there are runners would hide one that is missing.
        let failed = runners.abs_diff(summaries.len());
        if failed > 0 {
            println!("{} summaries of {runners} test programs: FAILED", summaries.len());
        }
        Ok(summaries.into_iter().fold(Self { failed, ..Self::default() }, Add::add))
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

/// Returns what a test runner's summary counts; none where the line is no summary.
fn parse_summary(line: &str) -> Result<Option<Tally>> {
    let Some(counts) = line.strip_prefix("test result: ") else { return Ok(None) };
    let number = |word: &str| -> Result<usize> {
        let part = counts.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
        part.and_then(|number| number.trim().parse().ok()).with_context(|| format!("no count of {word} in {line:?}"))
    };
    Ok(Some(Tally { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_without_a_summary_is_a_failure() {
        let summary = "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 9.00s";
        let both = format!("running 5 tests\n{summary}\nrunning 5 tests\n{summary}\n");
        let one = format!("running 5 tests\ntest crashes ... Segmentation fault\nrunning 5 tests\n{summary}\n");
        let of = |text, runners| Tally::of_text(text, runners).unwrap();
        assert_eq!(of(&both, 2), Tally { passed: 8, failed: 0, skipped: 2 });
        assert_eq!(of(&one, 2), Tally { passed: 4, failed: 1, skipped: 1 });
        assert_eq!(of("", 2), Tally { failed: 2, ..Tally::default() });
        assert_eq!(of(&both, 1).failed, 1);
    }

    #[test]
    fn summaries_are_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.10s";
        assert_eq!(parse_summary(line).unwrap(), Some(Tally { passed: 12, failed: 1, skipped: 2 }));
        assert_eq!(parse_summary("running 3 tests").unwrap(), None);
        assert!(parse_summary("test result: strange").is_err());
    }
}
