//! The file system of a virtual machine, in memory: a shell, what the tests call, modules, the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernels::Files;
use super::tools::Tools;
use crate::progress::output;

/// The console line before the output of the tests.
pub(super) const STARTED: &str = "VM: started";
/// The console line after all tests have ended.
pub(super) const DONE: &str = "VM: done";

const FOLDERS: [&str; 10] = ["bin", "dev", "etc", "mod", "proc", "run", "run/netns", "sys", "tests", "tmp"];
/// The names that busybox is called by.
const APPLETS: [&str; 7] = ["cat", "echo", "insmod", "mkdir", "mount", "poweroff", "sh"];
/// Programs of this machine that tests call.
const PROGRAMS: [&str; 4] = ["ip", "nsenter", "ping", "sleep"];
const STRIP: &str = "strip";
/// The guard's object and where it is in the archive.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/objects/holdfast.bpf.o");
const OBJECT_INSIDE: &str = "holdfast.bpf.o";

/// Writes the archive.
pub(super) fn write(to: &Path, kernel: &Files, tools: &Tools, tests: &BTreeMap<&str, PathBuf>) -> Result<()> {
    let file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.program("bin/busybox", &read(&tools.busybox)?)?;
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    programs(&mut archive)?;
    for module in &kernel.modules {
        let name = module.file_name().context("a module's file has a name")?.to_string_lossy();
        archive.program(&format!("mod/{name}"), &read(module)?)?;
    }
    let stripped = to.with_extension("stripped");
    for (name, program) in tests {
        output(Command::new(STRIP).arg("-o").args([&stripped, program]))?;
        archive.program(&format!("tests/{name}"), &read(&stripped)?)?;
    }
    archive.program(OBJECT_INSIDE, &read(Path::new(OBJECT))?)?;
    archive.program("init", init().as_bytes())?;
    archive.finish()
}

/// Adds [`PROGRAMS`] with the libraries they are linked with.
fn programs(archive: &mut Archive<impl Write>) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = find(name)?;
        archive.program(&format!("bin/{name}"), &read(&program)?)?;
        let linked = output(Command::new("ldd").arg(&program))?;
        libraries.extend(linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    let folders: BTreeSet<&Path> = libraries.iter().flat_map(|library| library.ancestors().skip(1)).collect();
    for folder in folders.into_iter().filter(|folder| folder.parent().is_some()) {
        archive.folder(inside(folder)?)?;
    }
    for library in &libraries {
        archive.program(inside(library)?, &read(library)?)?;
    }
    Ok(())
}

/// Returns the script that the kernel runs. The tests run one after another: translated, they would keep each other waiting.
fn init() -> String {
    format!(
        "#!/bin/sh\n\
         export PATH=/bin RUST_BACKTRACE=0 HOLDFAST_BPF_OBJECT=/{OBJECT_INSIDE}\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t tmpfs run /run\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         for module in /mod/*; do insmod $module || echo \"insmod $module failed\"; done\n\
         ip link set lo up\n\
         echo '{STARTED}'\n\
         for test in /tests/*; do $test --test-threads=1; done\n\
         echo '{DONE}'\n\
         poweroff -f\n"
    )
}

/// Returns the path of a program of this machine. Not every shell has the folders of root's programs in its path.
fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut found = folders.map(|folder| folder.join(program)).filter(|path| path.is_file());
    found.next().with_context(|| format!("`{program}` is not installed; `cargo xtask setup` does that"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

/// Returns an absolute path as the archive has it.
fn inside(path: &Path) -> Result<&str> {
    path.strip_prefix("/")?.to_str().with_context(|| format!("{} is not text", path.display()))
}
