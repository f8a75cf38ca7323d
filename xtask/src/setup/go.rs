//! Programs built from Go modules whose versions and sums stand below `xtask/lab/`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::{Progress, output};

/// Flags of every build. Without symbols the programs are a third smaller.
const FLAGS: [&str; 3] = ["-mod=readonly", "-trimpath", "-buildvcs=false"];
const STRIPPED: &str = "-s -w";

/// A module of the repository that pins the module whose programs it builds.
pub(super) struct Module {
    /// The name in messages and of the work folder.
    pub(super) name: &'static str,
    /// The text of `go.mod`: versions, and the Go release that builds them.
    pub(super) versions: &'static str,
    /// The text of `go.sum`.
    pub(super) sums: &'static str,
    /// The package to build: `tool` for what `go.mod` lists as tools, `.` for the module's own `main`.
    pub(super) package: &'static str,
    /// The text of `main.go`, for a module with a `main` of its own.
    pub(super) main: Option<&'static str>,
    /// Build tags, separated by commas.
    pub(super) tags: &'static str,
    /// Whether C libraries are linked.
    pub(super) cgo: bool,
}

impl Module {
    /// Returns all inputs of the build, for a cache key.
    pub(super) fn inputs(&self) -> Vec<&'static [u8]> {
        let main = self.main.unwrap_or_default();
        let cgo = if self.cgo { "cgo" } else { "" };
        let own = [self.name, self.versions, self.sums, self.package, main, self.tags, cgo, STRIPPED];
        own.into_iter().chain(FLAGS).map(str::as_bytes).collect()
    }

    /// Returns the version of the required module `path`.
    pub(super) fn version(&self, path: &str) -> Result<&'static str> {
        let required = self.versions.lines().filter_map(|line| {
            let line = line.trim();
            line.strip_prefix("require ").unwrap_or(line).strip_prefix(path)?.strip_prefix(' ')
        });
        let version = required.filter_map(|rest| rest.split_whitespace().next()).find(|word| word.starts_with('v'));
        version.with_context(|| format!("the go.mod of {} requires no {path}", self.name))
    }

    /// Builds the programs into the folder `bin`; `settings` are values of string variables, by their full names.
    pub(super) fn build(
        &self,
        work: &Path,
        bin: &Path,
        settings: &[(String, String)],
        progress: &Progress,
    ) -> Result<()> {
        let source = work.join(self.name);
        fs::create_dir_all(&source)?;
        fs::create_dir_all(bin)?;
        for (file, text) in [("go.mod", Some(self.versions)), ("go.sum", Some(self.sums)), ("main.go", self.main)] {
            if let Some(text) = text {
                fs::write(source.join(file), text)?;
            }
        }
        output(command(&source).arg("version"))
            .context("the laboratory's programs are compiled by Go: install Go 1.21 or newer")?;
        let linked =
            settings.iter().fold(STRIPPED.to_owned(), |flags, (name, value)| flags + &format!(" -X {name}={value}"));
        // A path that ends in a slash is a folder, for any number of programs.
        let to = if self.main.is_some() { bin.join(self.name) } else { bin.join("") };
        let mut go = command(&source);
        go.arg("build").args(FLAGS).args(["-tags", self.tags, "-ldflags", &linked, "-o"]).arg(to).arg(self.package);
        go.env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        progress.run(&format!("building {}", self.name), &mut go, &work.join(format!("{}.log", self.name)))
    }
}

/// Returns a `go` command in `folder`, as this machine configures it, with the Go release that the folder's `go.mod` names.
fn command(folder: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(folder).env("GOTOOLCHAIN", "auto").env("GOWORK", "off");
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(versions: &'static str) -> Module {
        Module { name: "x", versions, sums: "", package: ".", main: None, tags: "", cgo: false }
    }

    #[test]
    fn the_version_of_a_requirement_is_found_in_either_form() {
        let line = module("module m\n\nrequire example.test/a v1.2.3\n");
        assert_eq!(line.version("example.test/a").unwrap(), "v1.2.3");
        let block = module("require (\n\texample.test/ab v2.0.0\n\texample.test/a v1.0.0 // indirect\n)\n");
        assert_eq!(block.version("example.test/a").unwrap(), "v1.0.0");
        assert!(block.version("example.test/c").is_err());
    }

    #[test]
    fn a_replacement_is_no_requirement() {
        let replaced = module("require example.test/a v1.2.3\nreplace example.test/b => example.test/b v0.1.0\n");
        assert!(replaced.version("example.test/b").is_err());
    }
}
