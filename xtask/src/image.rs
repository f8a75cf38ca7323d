//! Container images without a container engine: an archive as `docker save` makes it, the same bytes for the same files.

mod archive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use self::archive::{Image, Layer};
use crate::progress::{Progress, output};

/// The image that `cargo xtask image` makes.
pub const HOLDFAST: &str = "holdfast:dev";
/// The sandbox's image in the laboratory, by its full name as containerd wants it in its configuration.
pub const PAUSE: &str = "docker.io/library/pause:1";
/// The image that tests run in pods.
pub const BUSYBOX: &str = "busybox:1";

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The programs in the image: (package, program, place in the image).
const PROGRAMS: [(&str, &str, &str); 2] =
    [("holdfast-agent", "holdfast-agent", "holdfast-agent"), ("holdfast-cni", "holdfast", "cni/holdfast")];

/// Builds holdfast's programs, static, and packs them; returns the archive.
pub fn holdfast(progress: &Progress) -> Result<PathBuf> {
    let target = workspace_target()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--target", TARGET]);
    for (package, program, _) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    // Static: the image holds nothing but these files, and the plugin runs on hosts with any C library.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo.env_remove("RUSTFLAGS");
    std::fs::create_dir_all(&target)?;
    progress.run("building the static programs", &mut cargo, &target.join("holdfast-image.log"))?;

    let built = target.join(TARGET).join("release");
    let mut layer = Layer::new()?;
    for (_, program, place) in PROGRAMS {
        layer.program(&built.join(program), place)?;
    }
    // Runtimes name a pod's network namespace by either path.
    layer.link("../run", "var/run")?;
    let archive = target.join("holdfast-image.tar");
    let entrypoint = Some("/holdfast-agent");
    Image { name: HOLDFAST, entrypoint, environment: BTreeMap::new() }.write(layer, &archive)?;
    progress.log(format!("{HOLDFAST}: {}", archive.display()));
    Ok(archive)
}

/// Writes the image of the process that holds a pod's namespaces.
pub(crate) fn pause(program: &Path, archive: &Path) -> Result<()> {
    let mut layer = Layer::new()?;
    layer.program(program, "pause")?;
    Image { name: PAUSE, entrypoint: Some("/pause"), environment: BTreeMap::new() }.write(layer, archive)
}

/// Writes an image with every applet of `busybox`.
pub(crate) fn busybox(busybox: &Path, archive: &Path) -> Result<()> {
    let mut layer = Layer::new()?;
    layer.program(busybox, "bin/busybox")?;
    for applet in output(Command::new(busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        layer.link("busybox", &format!("bin/{applet}"))?;
    }
    layer.folder("tmp", 0o1777)?;
    layer.text("root:x:0:0:root:/root:/bin/sh\n", "etc/passwd")?;
    layer.text("root:x:0:\n", "etc/group")?;
    layer.folder("root", 0o700)?;
    let environment = BTreeMap::from([("PATH", "/bin"), ("HOME", "/root")]);
    Image { name: BUSYBOX, entrypoint: None, environment }.write(layer, archive)
}

/// Returns the folder that cargo builds into, as cargo reports it: environment or configuration may set it.
fn workspace_target() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let text = output(cargo.args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(folder))
}
