//! The guard's tests on other kernels than this machine's: Debian's, booted in QEMU.
//!
//! ```text
//! package lists of every release ─▶ kernels::choose ─▶ vmlinuz, modules ─┐        (in the cache)
//! Debian's QEMU, busybox ─ dpkg -x ──────────────────────────────────────┤        (in the cache)
//! cargo test --no-run, static ───────────────────────────────────────────┴▶ initramfs ─▶ QEMU ─▶ console ─▶ tally
//! ```
//!
//! Nothing is installed. QEMU translates the kernel's instructions, which takes one to six minutes for each kernel.

mod cpio;
mod kernels;
mod machine;
mod modules;
mod root;
mod tools;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cache;
use crate::cargo::cargo;
use crate::progress::Progress;

pub use self::kernels::Kernel;

/// The test programs that the virtual machines run, one after another.
pub(crate) const TESTS: [&str; 2] = ["datapath", "netns"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Boots each of the `wanted` kernels (`6.1`, `6.12.95`), or of `kernels::choose`'s own choice, and runs the tests
/// in it. `report` gets each kernel with what its tests wrote.
pub fn run(wanted: &[String], progress: &Progress, mut report: impl FnMut(&Kernel, Result<String>)) -> Result<()> {
    let architecture = std::env::consts::ARCH;
    ensure!(architecture == "x86_64", "the virtual machines are x86_64 only, and this machine is {architecture}");
    let tests = tests(progress)?;
    let tools = tools::fetch(progress)?;
    // One at a time: a virtual machine takes all the processors it gets, and the package lists have one reader.
    let _lock = cache::lock(&cache::root()?.join("vm.lock"), "the virtual machines", progress)?;
    let served = kernels::served(progress)?;
    for kernel in kernels::choose(&served, wanted)? {
        let console = kernels::prepare(kernel, progress).and_then(|files| {
            let folder = tempfile::tempdir()?;
            let initramfs = folder.path().join("initramfs");
            root::write(&initramfs, &files, &tools, &tests)?;
            machine::boot(kernel, &files, &initramfs, &tools, progress)
        });
        report(kernel, console);
    }
    Ok(())
}

/// Builds the tests as static programs; returns them by name.
fn tests(progress: &Progress) -> Result<BTreeMap<&'static str, PathBuf>> {
    progress.log("building the tests, static");
    let mut cargo =
        cargo(&["test", "--no-run", "--package", "holdfast-tests", "--features", "netns", "--target", TARGET]);
    cargo.args(TESTS.map(|name| format!("--test={name}"))).arg("--message-format=json-render-diagnostics");
    // As the image's programs: the initramfs has no C library for them.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("RUSTFLAGS");
    let built = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(built.status.success(), "the tests do not compile");
    let messages = String::from_utf8(built.stdout)?;
    let found = |name: &str| {
        let programs = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut programs = programs.filter(|message| message["target"]["name"] == name);
        programs.find_map(|message| message["executable"].as_str().map(PathBuf::from))
    };
    TESTS
        .into_iter()
        .map(|name| match found(name) {
            Some(program) => Ok((name, program)),
            None => bail!("cargo built no test {name}"),
        })
        .collect()
}
