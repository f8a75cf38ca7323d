//! The virtual machine.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kernels::{Files, Kernel};
use super::root::{DONE, STARTED};
use super::tools::Tools;
use crate::cache;
use crate::progress::{Poll, Progress, tail};

const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const ARGUMENTS: [&str; 18] = [
    // Translated even where the machine has KVM: inside of another virtual machine that may stop at an instruction.
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "max",
    "-smp",
    "2",
    "-m",
    "1024",
    "-display",
    "none",
    "-no-reboot",
    "-nodefaults",
    "-serial",
    "stdio",
    "-append",
    // A console from the first line on, and an end instead of a wait after a panic.
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr",
    "-monitor",
    "none",
];
/// A boot with all tests takes one to six minutes on two cores, the newest kernel longest; some machines are busy.
const LIMIT: Duration = Duration::from_secs(1200);

/// Boots the kernel; returns the console output of its tests.
pub(super) fn boot(
    kernel: &Kernel,
    files: &Files,
    initramfs: &Path,
    tools: &Tools,
    progress: &Progress,
) -> Result<String> {
    progress.log(format!("booting {kernel}"));
    let log = cache::root()?.join(format!("vm-linux-{}.log", kernel.series()));
    let console = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut machine = qemu(tools)
        .arg("-kernel")
        .arg(&files.vmlinuz)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .spawn()
        .context("cannot start QEMU")?;
    let ended = progress.wait(&format!("{kernel} to run its tests"), LIMIT, || {
        let last = tail(&log).lines().last().unwrap_or_default().trim().to_owned();
        Ok(machine.try_wait()?.map_or(Poll::Pending(last), Poll::Ready))
    });
    if ended.is_err() {
        machine.kill()?;
        machine.wait()?;
    }
    let end = || format!("the end of the console, {}:\n{}", log.display(), clean(&tail(&log)));
    let status = ended.with_context(end)?;
    let text = clean(&String::from_utf8_lossy(&fs::read(&log)?));
    let Some((_, tests)) = text.split_once(STARTED) else { bail!("{kernel} did not start ({status}); {}", end()) };
    let Some((tests, _)) = tests.split_once(DONE) else { bail!("{kernel} ended early ({status}); {}", end()) };
    Ok(tests.trim().to_owned())
}

/// Returns QEMU with its own libraries, which this machine may have in other versions or not at all.
fn qemu(tools: &Tools) -> Command {
    let place = |path: &str| tools.root.join(path);
    let libraries = LIBRARIES.map(|folder| place(folder).display().to_string()).join(":");
    let mut command = Command::new(place("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(place("usr/bin/qemu-system-x86_64"));
    command.env("QEMU_MODULE_DIR", place("usr/lib/x86_64-linux-gnu/qemu"));
    for data in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(place(data));
    }
    command.args(ARGUMENTS);
    command
}

/// Returns the text without terminal escape sequences.
fn clean(console: &str) -> String {
    let mut text = String::with_capacity(console.len());
    let mut rest = console.chars().filter(|letter| *letter != '\r').peekable();
    while let Some(letter) = rest.next() {
        if letter != '\u{1b}' {
            text.push(letter);
        } else if rest.next() == Some('[') {
            // Parameters up to a letter.
            rest.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firmwares_painting_is_taken_away() {
        assert_eq!(clean("\u{1b}c\u{1b}[?7l\u{1b}[2JSea\r\nBIOS\u{1b}[0m\r\n"), "Sea\nBIOS\n");
    }
}
