//! The compiler and the linker for eBPF.
//!
//! If the active Rust toolchain has the source of `core` (`rustup component add rust-src`) and bpf-linker is
//! installed, these are used. Elsewhere Debian has a compiler with `core` built for BPF, and bpf-linker is built
//! against the very LLVM that this compiler uses: bitcode of another one would not be understood.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::progress::{Progress, output};
use crate::setup::debian_packages;

const DEBIAN_PACKAGES: [&str; 5] = ["gcc", "libstd-rust-web-dev-bpf", "llvm", "rust-web-clippy", "rustc-web"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian's Clippy, which finds the driver of its own compiler beside itself.
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// The program that strips.
pub(super) const OBJCOPY: &str = "llvm-objcopy";
const BPF_LINKER: &str = "0.13.0";

/// The compiler, the linker and the program that strips.
pub(super) struct Toolchain {
    /// Debian's compiler; otherwise cargo finds its own.
    rustc: Option<&'static str>,
    /// The folder with bpf-linker, if bpf-linker is not in the path.
    linker_folder: Option<PathBuf>,
    /// The source of the standard library, which is compiled along.
    library: Option<PathBuf>,
    versions: [String; 3],
}

impl Toolchain {
    /// Finds a toolchain, or sets Debian's up.
    pub(super) fn choose(progress: &Progress) -> Result<Self> {
        if let Some(library) = library()?
            && let Ok(linker) = output(clean("bpf-linker").arg("--version"))
            && objcopy_version().is_ok()
        {
            let rustc = rustc_version("rustc")?;
            let versions = [rustc, linker.trim().to_owned(), objcopy_version()?];
            return Ok(Self { rustc: None, linker_folder: None, library: Some(library), versions });
        }
        if output(Command::new("apt-get").arg("--version")).is_err() {
            bail!(
                "building the eBPF programs needs the source of Rust's core library, bpf-linker and llvm-objcopy: \
                 `rustup component add rust-src`, a published build of bpf-linker in the PATH \
                 (github.com/aya-rs/bpf-linker says how), and your system's llvm package"
            );
        }
        debian_packages::install(&DEBIAN_PACKAGES, progress)?;
        let rustc = rustc_version(DEBIAN_RUSTC)?;
        let folder = debian_linker(&rustc, progress)?;
        let linker = output(clean(folder.join("bpf-linker")).arg("--version"))?;
        let versions = [rustc, linker.trim().to_owned(), objcopy_version()?];
        Ok(Self { rustc: Some(DEBIAN_RUSTC), linker_folder: Some(folder), library: None, versions })
    }

    /// Returns a cargo command that compiles for BPF, without the subcommand.
    pub(super) fn cargo(&self) -> Command {
        let mut command = self.set_up(clean(cargo()));
        if self.library.is_some() {
            command.args(["-Z", "build-std=core"]);
        }
        command
    }

    /// Returns a Clippy command for BPF, without the arguments.
    pub(super) fn clippy(&self) -> Command {
        let mut command = if self.rustc.is_some() { self.set_up(clean(DEBIAN_CLIPPY)) } else { self.cargo() };
        command.arg("clippy");
        command
    }

    fn set_up(&self, mut command: Command) -> Command {
        // aya-ebpf uses inline assembly that is still behind a feature. What this turns on is part of the object's
        // identity, so it is always on.
        command.env("RUSTC_BOOTSTRAP", "1");
        if let Some(rustc) = self.rustc {
            command.env("RUSTC", rustc);
        }
        if let Some(folder) = &self.linker_folder {
            let path = env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(folder.clone()).chain(env::split_paths(&path));
            command.env("PATH", env::join_paths(all).unwrap_or(path.clone()));
        }
        command
    }

    /// Returns the source of the standard library, if it is compiled along.
    pub(super) fn library(&self) -> Option<&Path> {
        self.library.as_deref()
    }

    /// Returns the versions of compiler, linker and objcopy.
    pub(super) fn versions(&self) -> [&str; 3] {
        self.versions.each_ref().map(String::as_str)
    }
}

/// Returns cargo's folder of downloads.
pub(super) fn cargo_home() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| Some(set("HOME")?.join(".cargo"))).context("neither CARGO_HOME nor HOME is set")
}

/// Returns a command without the variables that `cargo run` sets for this process and its own compiler.
fn clean(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    for name in
        ["RUSTC", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "LD_LIBRARY_PATH", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(name);
    }
    command
}

/// Returns the cargo of this machine.
pub(super) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Returns the source of the active toolchain's standard library, if it is installed.
fn library() -> Result<Option<PathBuf>> {
    let sysroot = output(clean("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    Ok(library.join("library/core/Cargo.toml").exists().then_some(library))
}

/// Returns the compiler's version, build and LLVM on one line.
fn rustc_version(rustc: &str) -> Result<String> {
    let text = output(clean(rustc).arg("-vV"))?;
    let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("unknown");
    Ok(format!("{}, LLVM {llvm}", text.lines().next().unwrap_or_default()))
}

fn objcopy_version() -> Result<String> {
    let text = output(clean(OBJCOPY).arg("--version"))?;
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1).unwrap_or("unknown");
    Ok(format!("{OBJCOPY} {version}"))
}

/// Builds bpf-linker against the LLVM of Debian's compiler; returns the folder with the program.
fn debian_linker(rustc: &str, progress: &Progress) -> Result<PathBuf> {
    let llvm = debian_llvm()?;
    let name = llvm.file_name().and_then(|name| name.to_str()).context("LLVM's library has a name")?.to_owned();
    let major = name.split('.').find(|part| part.parse::<u32>().is_ok()).context("LLVM's library has a version")?;
    let key = cache::key(&[BPF_LINKER.as_bytes(), name.as_bytes(), rustc.as_bytes()]);
    let done = cache::ensure(&cache::root()?, "bpf-linker", &key, progress, |folder| {
        // Only the unversioned name is missing; Debian's development package of LLVM, which has it, takes 400 MB.
        let library = folder.join("llvm/lib");
        fs::create_dir_all(&library)?;
        symlink(&llvm, library.join("libLLVM.so"))?;
        symlink(&llvm, library.join(&name))?;
        let mut install = clean(cargo());
        install
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"])
            .args(["--features", &format!("llvm-{major}"), "--root"])
            .arg(folder)
            .arg("--target-dir")
            .arg(folder.join("target"))
            .env("LLVM_PREFIX", folder.join("llvm"));
        let log = cache::root()?.join("bpf-linker.log");
        progress.run("building bpf-linker, about a minute on two cores", &mut install, &log)?;
        fs::remove_dir_all(folder.join("target"))?;
        Ok(())
    })?;
    Ok(done.join("bin"))
}

/// Returns the LLVM library that Debian's compiler is linked with.
fn debian_llvm() -> Result<PathBuf> {
    let libraries = output(clean("ldd").arg(DEBIAN_RUSTC))?;
    libraries
        .lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .find(|(name, _)| name.starts_with("libLLVM"))
        .and_then(|(_, rest)| rest.split(" (").next())
        .map(PathBuf::from)
        .with_context(|| format!("{DEBIAN_RUSTC} uses no libLLVM; is it rustc-web?"))
}
