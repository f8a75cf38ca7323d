//! `cargo xtask build-ebpf`: the guard's programs, compiled and linked into the object that the agent embeds.
//!
//! ```text
//! ebpf/ ──copy──▶ folder ──cargo, bpf-linker──▶ ELF with debug information ──llvm-objcopy──▶ ebpf/objects/holdfast.bpf.o
//!                                                                          versions, hashes ──▶ ebpf/objects/RECORD.json
//! ```
//!
//! The object is committed, so that building the agent needs no eBPF toolchain. A check keeps object and source together: `--check` builds it again and compares, wherever the compiler is the recorded one. Two
//! builds give the same bytes in whatever folders they are made, because every path in them is replaced.

mod record;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

pub use self::record::Record;
use self::toolchain::{OBJCOPY, Toolchain};
use crate::cache;
use crate::progress::{Progress, output};

/// The object's name, wherever it is.
const OBJECT: &str = "holdfast.bpf.o";
const TARGET: &str = "bpfel-unknown-none";

/// The arguments of `cargo xtask build-ebpf`.
#[derive(Debug, Default, Args)]
pub struct Arguments {
    /// Build afresh and compare with the committed object; write nothing there
    #[arg(long)]
    pub check: bool,
    /// Leave the object in this folder
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

/// The result of comparing a fresh build with the committed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same bytes.
    Same,
    /// The versions differ, so the bytes prove nothing. The fresh object has to be loaded and tested.
    OtherToolchain,
}

/// Builds the object, or checks the committed one.
pub fn run(arguments: &Arguments, progress: &Progress) -> Result<()> {
    if arguments.check {
        let scratch = tempfile::tempdir()?;
        let out = arguments.out.as_deref().unwrap_or(scratch.path());
        return check(out, progress).map(drop);
    }
    let out = arguments.out.clone().unwrap_or_else(objects);
    let record = build(&out, progress)?;
    progress.log(format!("{}: {}", out.join(OBJECT).display(), record.sha256));
    Ok(())
}

/// Installs what [`build`] needs, if anything is missing.
pub fn setup(progress: &Progress) -> Result<()> {
    Toolchain::choose(progress).map(drop)
}

/// Returns the command that lints the programs. The lints of the machine's own workspace do not reach them: another target, another compiler.
pub fn lints(progress: &Progress) -> Result<Command> {
    let mut command = Toolchain::choose(progress)?.clippy();
    command
        .current_dir(source_folder())
        .args(["--quiet", "--workspace", "--release", "--locked", "--target", TARGET])
        .args(["--", "--deny", "warnings"])
        .env("CARGO_TARGET_DIR", source_folder().with_file_name("target").join("ebpf"))
        .env("AYA_BPF_TARGET_ARCH", std::env::consts::ARCH);
    Ok(command)
}

/// Returns the command that checks the format of the programs' source.
pub fn format() -> Command {
    let mut command = Command::new(toolchain::cargo());
    command.current_dir(source_folder()).args(["fmt", "--all", "--check"]);
    command
}

/// Builds into `out` and compares with the committed object. Different bytes of the same toolchain are an error.
pub fn check(out: &Path, progress: &Progress) -> Result<Verdict> {
    let committed = Record::read(&objects())?;
    let fresh = build(out, progress)?;
    if !fresh.same_toolchain(&committed) {
        progress.log(format!(
            "the committed object was made by {}, this machine has {}: not compared",
            committed.toolchain(),
            fresh.toolchain()
        ));
        return Ok(Verdict::OtherToolchain);
    }
    let bytes =
        |folder: &Path| fs::read(folder.join(OBJECT)).with_context(|| format!("{OBJECT} in {}", folder.display()));
    if bytes(out)? != bytes(&objects())? {
        bail!(
            "ebpf/objects/{OBJECT} is not what ebpf/ compiles to; run `cargo xtask build-ebpf` and commit the result"
        );
    }
    progress.log("the committed object is what its source compiles to, byte for byte");
    Ok(Verdict::Same)
}

/// Compiles, links and strips into `out`; writes the record beside the object.
fn build(out: &Path, progress: &Progress) -> Result<Record> {
    let toolchain = Toolchain::choose(progress)?;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let work = tempfile::Builder::new().prefix(".ebpf-").tempdir_in(cache::root()?)?;
    let source = work.path().join("source");
    copy(&source_folder(), &source)?;
    let linked = compile(&toolchain, &source, &work.path().join("target"), progress)?;
    let object = out.join(OBJECT);
    output(Command::new(OBJCOPY).arg("--strip-debug").args([&linked, &object]))?;
    let bytes = fs::read(&object)?;
    refuse_paths(&bytes, work.path())?;
    let record = Record::new(&toolchain, &bytes, &source_folder())?;
    record.write(out)?;
    Ok(record)
}

fn compile(toolchain: &Toolchain, source: &Path, target: &Path, progress: &Progress) -> Result<PathBuf> {
    let log = cache::root()?.join("build-ebpf.log");
    // This runs first, so that the folders whose names are replaced exist.
    let mut fetch = toolchain.cargo();
    progress.run("fetching the eBPF crates", fetch.current_dir(source).args(["fetch", "--locked"]), &log)?;
    let mut command = toolchain.cargo();
    command
        .current_dir(source)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .env("CARGO_TARGET_DIR", target)
        .env("AYA_BPF_TARGET_ARCH", std::env::consts::ARCH)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain, source)?.join("\u{1f}"));
    progress.run("compiling the eBPF programs", &mut command, &log)?;
    Ok(target.join(TARGET).join("release/holdfast"))
}

/// Returns the compiler's flags: debug information to make BTF from, without any path of this machine.
fn flags(toolchain: &Toolchain, source: &Path) -> Result<Vec<String>> {
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    let mut replace = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    let registry = toolchain::cargo_home()?.join("registry/src");
    fs::create_dir_all(&registry)?;
    // A registry's folder is named after its host.
    for entry in fs::read_dir(&registry)? {
        replace(&entry?.path(), "/crates");
    }
    if let Some(library) = toolchain.library() {
        replace(library, "/rust");
    }
    replace(source, "/holdfast");
    Ok(flags)
}

/// Fails if the object tells where it was made.
fn refuse_paths(object: &[u8], work: &Path) -> Result<()> {
    let registry = toolchain::cargo_home()?.join("registry");
    for path in [work, registry.as_path()] {
        let needle = path.as_os_str().as_encoded_bytes();
        if object.windows(needle.len()).any(|window| window == needle) {
            bail!("the object has the path {} in it", path.display());
        }
    }
    Ok(())
}

/// Copies the sources, and only those.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in record::sources(from)? {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().context("a file is in a folder")?)?;
        fs::copy(from.join(&file), &target).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("ebpf")
}

fn objects() -> PathBuf {
    source_folder().join("objects")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no toolchain, so it holds wherever tests run.
    #[test]
    fn the_committed_object_belongs_to_the_committed_source() {
        let record = Record::read(&objects()).unwrap();
        let stale = "the source has changed since the object was built: run `cargo xtask build-ebpf`";
        assert_eq!(record.source_sha256, record::source_hash(&source_folder()).unwrap(), "{stale}");
        let object = fs::read(objects().join(OBJECT)).unwrap();
        assert_eq!(record.sha256, record::hash(&object), "the object is not the recorded one");
    }
}
