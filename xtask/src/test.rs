//! `cargo xtask test`: every suite, set-up included.
//!
//! ```text
//! style      formatting, lints
//! ebpf       the committed object is what its source compiles to
//! unit       everything that needs neither root nor a cluster
//! kernel     links, routes and the guard in network namespaces of this kernel
//! lab        the laboratory itself
//! apiserver  the controller against a real API server without nodes
//! cluster    holdfast on the laboratory's cluster
//! vm         the guard on Debian's other kernels; minutes, so only if asked for
//! ```
//!
//! The last line counts what the suites reported. A suite that could not run counts as a failure.

mod suite;

use std::ops::Add;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::build_ebpf::{self, Verdict};
use crate::cargo::cargo;
use crate::cluster::Cluster;
use crate::lab::{self, Lab};
use crate::progress::Progress;
use crate::setup::{self, Release, VARIABLE};
use crate::{deploy, vm};
use suite::Tally;

/// Options of `cargo xtask test`.
#[derive(Args)]
pub struct Arguments {
    /// Only these suites
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// The laboratory's name; each checkout has its own
    #[arg(long, default_value_t = lab::of_checkout("test"))]
    name: String,
    /// The release of Kubernetes that the laboratory runs
    #[arg(long, value_enum, default_value_t, env = VARIABLE)]
    kubernetes: Release,
    /// Leave the cluster up
    #[arg(long)]
    keep: bool,
    /// Test the guard on Debian's kernels too, in virtual machines: the oldest, the newest and some between
    #[arg(long)]
    vm: bool,
    /// Only these of Debian's kernels, for example 6.1; repeatable. Implies --vm
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
}

/// The suites, in their order: the quick ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    Style,
    Ebpf,
    Unit,
    Kernel,
    Lab,
    Apiserver,
    Cluster,
    Vm,
}

impl Suite {
    /// The suites that run if none is named.
    const DEFAULT: [Self; 7] =
        [Self::Style, Self::Ebpf, Self::Unit, Self::Kernel, Self::Lab, Self::Apiserver, Self::Cluster];

    /// Returns the suites that the arguments choose.
    fn chosen(arguments: &Arguments) -> Vec<Self> {
        let asked = arguments.vm || !arguments.kernels.is_empty();
        let named: &[Self] = if arguments.suites.is_empty() { &Self::DEFAULT } else { &arguments.suites };
        let vm = (asked && !named.contains(&Self::Vm)).then_some(Self::Vm);
        named.iter().copied().chain(vm).collect()
    }
}

/// Runs the suites. An error means that something failed, and everything that could run did.
pub fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    setup::run(arguments.kubernetes, progress)?;
    let mut total = Tally::default();
    let mut summary = Vec::new();
    for suite in Suite::chosen(arguments) {
        progress.log(format!("suite {suite:?}"));
        let tally = perform(suite, arguments, progress).unwrap_or_else(|error| {
            eprintln!("error: suite {suite:?} could not run: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        summary.push(format!("{suite:?}: {tally}"));
        total += tally;
    }
    println!("\n{}\n{total}", summary.join("\n"));
    if total.failed > 0 || total.passed == 0 {
        bail!("not everything passed");
    }
    Ok(())
}

fn perform(suite: Suite, arguments: &Arguments, progress: &Progress) -> Result<Tally> {
    match suite {
        Suite::Style => {
            let format = Tally::of_check("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
            let lints = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"];
            let checks = [
                Tally::of_check("lints", &mut cargo(&lints))?,
                Tally::of_check("formatting of the programs", &mut build_ebpf::format())?,
                Tally::of_check("lints of the programs", &mut build_ebpf::lints(progress)?)?,
            ];
            Ok(checks.into_iter().fold(format, Add::add))
        }
        Suite::Ebpf => {
            let fresh = tempfile::tempdir()?;
            match build_ebpf::check(fresh.path(), progress)? {
                Verdict::Same => Ok(Tally { passed: 1, ..Tally::default() }),
                Verdict::OtherToolchain => {
                    let mut tests =
                        cargo(&["test", "--package", "holdfast-tests", "--features", "netns", "--test", "datapath"]);
                    Tally::of_tests(tests.env("HOLDFAST_BPF_OBJECT", fresh.path().join("holdfast.bpf.o")))
                }
            }
        }
        Suite::Unit => tests(&["--workspace"]),
        Suite::Kernel => tests(&["--package", "holdfast-tests", "--features", "netns"]),
        Suite::Lab => on_release(arguments.kubernetes, &["--package", "xtask", "--features", "lab", "--test", "lab"]),
        Suite::Apiserver => on_release(
            arguments.kubernetes,
            &["--package", "holdfast-tests", "--features", "apiserver", "--test", "apiserver"],
        ),
        Suite::Cluster => cluster(arguments, progress),
        Suite::Vm => kernels(arguments, progress),
    }
}

/// Runs all tests that these arguments select.
fn tests(chosen: &[&str]) -> Result<Tally> {
    Tally::of_tests(cargo(&["test", "--no-fail-fast"]).args(chosen))
}

/// Runs tests that start a Kubernetes of this release themselves.
fn on_release(release: Release, chosen: &[&str]) -> Result<Tally> {
    Tally::of_tests(cargo(&["test", "--no-fail-fast"]).args(chosen).env(VARIABLE, release.to_string()))
}

/// Runs the guard's tests in virtual machines. A kernel that does not get to the end counts as a failure.
fn kernels(arguments: &Arguments, progress: &Progress) -> Result<Tally> {
    let mut total = Tally::default();
    vm::run(&arguments.kernels, progress, |kernel, console| {
        let tally = console.and_then(|text| {
            println!("{text}");
            Tally::of_text(&text, vm::TESTS.len())
        });
        let tally = tally.unwrap_or_else(|error| {
            eprintln!("error: {kernel}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        println!("{kernel}: {tally}");
        total += tally;
    })?;
    Ok(total)
}

/// Brings a laboratory up, installs holdfast as a user would, and runs the suite on it.
fn cluster(arguments: &Arguments, progress: &Progress) -> Result<Tally> {
    let lab = Cluster::Lab(Lab::recreate(&arguments.name, arguments.kubernetes, progress)?);
    // Short cooldowns, so that tests of collection end soon.
    let values = json!({"spiderpoolController": {"releasedRestSeconds": 5, "unlistedRestSeconds": 10}});
    let tally = deploy::install(&lab, &values, progress).and_then(|()| {
        let tests = ["test", "--package", "holdfast-tests", "--features", "cluster", "--test", "cluster"];
        // Enough for those that wait for the laboratory to be theirs beside those that share it.
        Tally::of_tests(cargo(&tests).env("HOLDFAST_LAB_NAME", &arguments.name).env("RUST_TEST_THREADS", "24"))
    });
    if let Cluster::Lab(lab) = lab {
        if arguments.keep {
            lab.log_commands(progress);
        } else {
            lab.down(progress)?;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_are_named_are_asked_for() {
        let chosen = |line: &[&str]| {
            #[derive(clap::Parser)]
            struct Line {
                #[command(flatten)]
                arguments: Arguments,
            }
            Suite::chosen(&<Line as clap::Parser>::parse_from([&["test"], line].concat()).arguments)
        };
        assert_eq!(chosen(&[]), Suite::DEFAULT);
        assert_eq!(chosen(&["unit", "--vm"]), [Suite::Unit, Suite::Vm]);
        assert_eq!(chosen(&["vm", "--kernel", "6.1"]), [Suite::Vm]);
    }
}
