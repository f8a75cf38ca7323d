//! Builds the laboratory's parts from Debian's packages: one binary with all of Kubernetes, and what runs beside it.
//!
//! ```text
//! binary packages ─ dpkg -x ─┬─ Go 1.19 ──┐
//!                            │            ├─ openapi-gen ─ hyperkube ─ bin/
//! source package ────────────┼────────────┘
//!                            └─ etcd, containerd, runc ─ bin/ · CNI plugins ─ cni/ · busybox ─ images/
//! ```

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::PrivateApt;
use crate::cache;
use crate::image;
use crate::progress::{Progress, output};

/// To be raised when the recipe below changes in a way that its other inputs do not show.
const RECIPE: &str = "1";
const HYPERKUBE: &str = include_str!("../../assets/hyperkube/main.go");
const PAUSE: &str = include_str!("../../assets/pause.c");
const VERSION: &str = "v1.20.2";
const PACKAGES: [&str; 9] = [
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-json-iterator-go-dev",
    "golang-github-modern-go-reflect2-dev",
    "runc",
];
/// What is kept of the unpacked packages: (folder, file, new folder).
const KEPT: [(&str, &str, &str); 6] = [
    ("usr/bin", "containerd", "bin"),
    ("usr/bin", "containerd-shim-runc-v2", "bin"),
    ("usr/bin", "ctr", "bin"),
    ("usr/bin", "etcd", "bin"),
    ("usr/sbin", "runc", "bin"),
    ("bin", "busybox", "bin"),
];
const COMPONENTS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];
/// Libraries that Kubernetes 1.20 vendors too old for Go 1.18 and newer.
const REPLACED: [&str; 2] = ["github.com/modern-go/reflect2", "github.com/json-iterator/go"];

/// Left out: clouds, and Docker, which the kubelet would ask once a second, five times, at every start.
const TAGS: &str = "dockerless,providerless";

/// The cache key of everything that goes into [`build`].
pub(super) fn key() -> String {
    let packages = PACKAGES.join(" ");
    cache::key(&[RECIPE, VERSION, &packages, HYPERKUBE, PAUSE, TAGS].map(str::as_bytes))
}

/// Builds all parts into `folder`.
pub(super) fn build(folder: &Path, progress: &Progress) -> Result<()> {
    let architecture = std::env::consts::ARCH;
    ensure!(architecture == "x86_64", "the laboratory is built for x86_64 only, and this machine is {architecture}");
    let work = folder.join("work");
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    let apt = PrivateApt::new(&work.join("apt"), &work, progress)?;
    apt.unpack(&PACKAGES, &work.join("packages"), &unpacked, progress)?;
    let source = apt.source("kubernetes", &work.join("source"), progress)?;

    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let go = Go::new(&work, &unpacked, &source)?;
    go.replace_libraries(&unpacked)?;
    go.generate_openapi(progress)?;
    go.hyperkube(&bin.join("hyperkube"), progress)?;
    for component in COMPONENTS {
        symlink("hyperkube", bin.join(component))?;
    }
    for (from, name, to) in KEPT {
        fs::copy(unpacked.join(from).join(name), folder.join(to).join(name))
            .with_context(|| format!("no {from}/{name} in Debian's packages"))?;
    }
    fs::rename(unpacked.join("usr/lib/cni"), folder.join("cni")).context("no CNI plugins in Debian's packages")?;
    images(folder, &work, progress)?;
    progress.say("removing sources and intermediate files");
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn images(folder: &Path, work: &Path, progress: &Progress) -> Result<()> {
    progress.say("making the images pause and busybox");
    let (source, pause) = (work.join("pause.c"), work.join("pause"));
    fs::write(&source, PAUSE)?;
    output(Command::new("gcc").args(["-Os", "-static", "-s", "-Wall", "-Werror", "-o"]).args([&pause, &source]))?;
    let images = folder.join("images");
    fs::create_dir_all(&images)?;
    image::pause(&pause, &images.join("pause.tar"))?;
    image::busybox(&folder.join("bin/busybox"), &images.join("busybox.tar"))
}

/// A Go workspace around the unpacked source of Kubernetes.
struct Go {
    root: PathBuf,
    work: PathBuf,
    cache: PathBuf,
    tree: PathBuf,
}

impl Go {
    fn new(work: &Path, unpacked: &Path, source: &Path) -> Result<Self> {
        let tree = work.join("gopath/src/k8s.io/kubernetes");
        fs::create_dir_all(tree.parent().context("a path with a parent")?)?;
        symlink(source, &tree)?;
        // A developer of this recipe keeps the compiler's cache by naming it; nobody else needs its 1.6 GB again.
        let cache = std::env::var_os("GOCACHE").map_or_else(|| work.join("gocache"), PathBuf::from);
        Ok(Self { root: unpacked.join("usr/lib/go-1.19"), work: work.to_owned(), cache, tree })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.tree)
            .env("PWD", &self.tree)
            .env("GOROOT", &self.root)
            .env("GOPATH", self.work.join("gopath"))
            .env("GOCACHE", &self.cache)
            .envs([("GOFLAGS", ""), ("GO111MODULE", "off"), ("GOTOOLCHAIN", "local")])
            .envs([("GOPROXY", "off"), ("GOSUMDB", "off"), ("CGO_ENABLED", "0")]);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.root.join("bin").display()));
        command
    }

    fn build(&self, what: &str, package: &str, flags: &[&str], to: &Path, progress: &Progress) -> Result<()> {
        let mut command = self.command(&self.root.join("bin/go"));
        command.arg("build").args(flags).arg("-o").arg(to).arg(package);
        progress.run(what, &mut command, &self.work.join("go-build.log"))
    }

    fn replace_libraries(&self, unpacked: &Path) -> Result<()> {
        for library in REPLACED {
            let vendored = self.tree.join("vendor").join(library);
            fs::remove_dir_all(&vendored).with_context(|| format!("replacing {}", vendored.display()))?;
            let newer = unpacked.join("usr/share/gocode/src").join(library);
            output(Command::new("cp").arg("-rL").args([&newer, &vendored]))?;
            output(
                Command::new("find")
                    .arg(&vendored)
                    .args(["-name", "*_test*", "-prune", "-exec", "rm", "-r", "{}", "+"]),
            )?;
        }
        Ok(())
    }

    /// The API server does not compile without the API descriptions that its build generates from the source.
    fn generate_openapi(&self, progress: &Progress) -> Result<()> {
        let generator = self.work.join("openapi-gen");
        let package = "k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen";
        self.build("building openapi-gen", package, &[], &generator, progress)?;
        let mut command = self.command(&generator);
        command
            .args(["--logtostderr", "-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi"])
            .args(["-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt", "-i", &self.described_packages()?])
            .arg("-r")
            .arg(self.work.join("violations"));
        progress.run("generating the API descriptions", &mut command, &self.work.join("openapi-gen.log"))
    }

    /// The packages that ask for a description by a comment, separated by commas.
    fn described_packages(&self) -> Result<String> {
        let mut files = Vec::new();
        for top in ["vendor/k8s.io", "pkg", "plugin", "cmd"] {
            go_files(&self.tree.join(top), &mut files)?;
        }
        let mut packages = std::collections::BTreeSet::new();
        for file in files {
            let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            if text.windows(17).any(|window| window == b"+k8s:openapi-gen=") {
                let folder = file.strip_prefix(&self.tree)?.parent().context("a file in a package")?;
                packages.insert(format!("k8s.io/kubernetes/{}", folder.display()));
            }
        }
        Ok(packages.into_iter().collect::<Vec<_>>().join(","))
    }

    fn hyperkube(&self, to: &Path, progress: &Progress) -> Result<()> {
        let folder = self.tree.join("cmd/hyperkube");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("main.go"), HYPERKUBE)?;
        let link = link_flags();
        let flags = ["-tags", TAGS, "-trimpath", "-ldflags", &link];
        self.build("building Kubernetes", "k8s.io/kubernetes/cmd/hyperkube", &flags, to, progress)
    }
}

/// The version that the components report, which an archive without its history cannot know.
fn link_flags() -> String {
    let mut values = vec![String::from("-s -w")];
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for path in [package.to_owned(), format!("k8s.io/kubernetes/vendor/{package}")] {
            for (name, value) in [("Version", VERSION), ("Major", "1"), ("Minor", "20"), ("TreeState", "archive")] {
                values.push(format!("-X {path}.git{name}={value}"));
            }
            values.push(format!("-X {path}.buildDate=2021-01-13T13:20:00Z"));
        }
    }
    values.join(" ")
}

/// All Go files under `folder` that go into a build. Links are followed: the vendored `k8s.io` are links into the tree.
fn go_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.contains("code-generator") && !name.contains("sample-apiserver") {
                go_files(&path, found)?;
            }
        } else if path.extension() == Some(OsStr::new("go")) && !name.ends_with("_test.go") && path.exists() {
            found.push(path);
        }
    }
    Ok(())
}
