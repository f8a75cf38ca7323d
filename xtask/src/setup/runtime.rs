//! The programs that run beside Kubernetes in the laboratory, the same for all releases.
//!
//! ```text
//! Go modules ─ etcd, containerd, runc, crictl ─ bin/ · CNI plugins ─ cni/
//! Debian     ─ busybox ─┬─ images/
//! pause.c    ─ gcc ─────┘
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::PrivateApt;
use super::debian_packages::install_host_packages;
use super::go::Module;
use crate::cache;
use crate::image;
use crate::progress::{Progress, output};

/// To be raised when the recipe below changes in a way that its other inputs do not show.
const RECIPE: &str = "1";
const PAUSE: &str = include_str!("../../assets/pause.c");
const BUSYBOX: &str = "busybox-static";

/// Defines a module whose programs are the tools of its `go.mod`.
macro_rules! tools {
    ($name:literal, $tags:literal, $cgo:literal) => {
        Module {
            name: $name,
            versions: include_str!(concat!("../../lab/", $name, "/go.mod")),
            sums: include_str!(concat!("../../lab/", $name, "/go.sum")),
            package: "tool",
            main: None,
            tags: $tags,
            cgo: $cgo,
        }
    };
}

const ETCD: Module = Module {
    name: "etcd",
    versions: include_str!("../../lab/etcd/go.mod"),
    sums: include_str!("../../lab/etcd/go.sum"),
    package: ".",
    main: Some(include_str!("../../lab/etcd/main.go")),
    tags: "",
    cgo: false,
};
/// Kubelets want seccomp, which runc has from a C library.
const PROGRAMS: [Module; 4] =
    [ETCD, tools!("containerd", "", false), tools!("runc", "seccomp", true), tools!("crictl", "", false)];
const PLUGINS: Module = tools!("cni", "", false);

/// Returns the folder with the programs (`bin/`), CNI plugins (`cni/`) and images (`images/`), built if need be.
pub(super) fn programs(root: &Path, progress: &Progress) -> Result<PathBuf> {
    let own = [RECIPE, PAUSE, BUSYBOX].map(str::as_bytes);
    let inputs: Vec<_> = own.into_iter().chain(PROGRAMS.iter().chain([&PLUGINS]).flat_map(Module::inputs)).collect();
    cache::ensure(root, "runtime", &cache::key(&inputs), progress, |folder| {
        progress.log("etcd, containerd and runc are not in the cache: building them, some 3 minutes on two cores");
        install_host_packages(progress)?;
        let work = tempfile::tempdir_in(root)?;
        for module in PROGRAMS {
            module.build(work.path(), &folder.join("bin"), &[], progress)?;
        }
        PLUGINS.build(work.path(), &folder.join("cni"), &[], progress)?;
        images(folder, work.path(), progress)
    })
}

fn images(folder: &Path, work: &Path, progress: &Progress) -> Result<()> {
    let unpacked = work.join("unpacked");
    let apt = PrivateApt::new(&work.join("apt"), work, progress)?;
    apt.unpack(&[BUSYBOX], &work.join("packages"), &unpacked, progress)?;
    let busybox = folder.join("bin/busybox");
    fs::copy(unpacked.join("bin/busybox"), &busybox).context("no bin/busybox in Debian's package")?;

    progress.log("making the images pause and busybox");
    let (source, pause) = (work.join("pause.c"), work.join("pause"));
    fs::write(&source, PAUSE)?;
    output(Command::new("gcc").args(["-Os", "-static", "-s", "-Wall", "-Werror", "-o"]).args([&pause, &source]))?;
    let images = folder.join("images");
    fs::create_dir_all(&images)?;
    image::pause(&pause, &images.join("pause.tar"))?;
    image::busybox(&busybox, &images.join("busybox.tar"))
}
