//! A private apt: its own lists, archive and package state, so that foreign packages are unpacked and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::{Progress, output};

/// The release whose packages these tasks were tried with.
const RELEASE: &str = "bookworm";

/// An apt root in a folder of its own that reads this machine's package archive.
pub(crate) struct PrivateApt {
    root: PathBuf,
    config: PathBuf,
    logs: PathBuf,
}

impl PrivateApt {
    /// Sets it up under `folder` and reads the package lists.
    pub(crate) fn new(folder: &Path, logs: &Path, progress: &Progress) -> Result<Self> {
        let apt = Self::set_up(folder, logs, &sources(with_release)?, "")?;
        apt.run("reading the package lists", folder, &["update"], progress)?;
        Ok(apt)
    }

    /// Sets it up under `folder` for several releases, with their updates and backports. A release that the archive no
    /// longer has is left out.
    pub(crate) fn of_releases(folder: &Path, logs: &Path, releases: &[&str], progress: &Progress) -> Result<Self> {
        let sources = sources(|text, here| with_releases(text, here, releases))?;
        // Half a gigabyte of lists otherwise; and the last lists of a release that gets no more updates are older than
        // they say they may be.
        let options = "Acquire::GzipIndexes \"true\";\nAcquire::Check-Valid-Until \"false\";\n";
        let apt = Self::set_up(folder, logs, &sources, options)?;
        // The lists that are there are read all the same; what is missing shows in what they list.
        if let Err(error) = apt.run("reading the package lists of all releases", folder, &["update"], progress) {
            progress.log(format!("some package lists are not served: {error:#}"));
        }
        Ok(apt)
    }

    /// Returns a root that has been set up before, with the lists it had then.
    pub(crate) fn again(folder: &Path, logs: &Path) -> Self {
        Self { root: folder.to_owned(), config: folder.join("apt.conf"), logs: logs.to_owned() }
    }

    fn set_up(folder: &Path, logs: &Path, sources: &str, options: &str) -> Result<Self> {
        for part in
            ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg", "etc/apt/sources.list.d"]
        {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("var/lib/dpkg/status"), "")?;
        fs::write(folder.join("etc/apt/sources.list.d/debian.sources"), sources)?;
        let apt = Self::again(folder, logs);
        fs::write(
            &apt.config,
            format!(
                "Dir \"{root}/\";\nDir::State::status \"{root}/var/lib/dpkg/status\";\n\
                 Acquire::Languages \"none\";\nAPT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\n{options}",
                root = folder.display()
            ),
        )?;
        Ok(apt)
    }

    /// Fetches binary packages into `folder` and unpacks them into `into`.
    pub(crate) fn unpack(&self, packages: &[&str], folder: &Path, into: &Path, progress: &Progress) -> Result<()> {
        fs::create_dir_all(folder)?;
        self.run("fetching packages", folder, &[&["download"], packages].concat(), progress)?;
        unpack_all(folder, into)
    }

    /// Fetches packages with all that they depend on and unpacks them into `into`.
    pub(crate) fn unpack_closure(&self, packages: &[&str], into: &Path, progress: &Progress) -> Result<()> {
        fs::create_dir_all(into)?;
        let install = ["install", "--yes", "--download-only", "--no-install-recommends"];
        self.run("fetching packages and what they need", into, &[&install, packages].concat(), progress)?;
        unpack_all(&self.root.join("var/cache/apt/archives"), into)
    }

    /// Returns the lists' entries for a package, one paragraph for each version.
    pub(crate) fn show(&self, package: &str) -> Result<String> {
        output(Command::new("apt-cache").env("APT_CONFIG", &self.config).args(["show", package]))
    }

    fn run(&self, what: &str, folder: &Path, arguments: &[&str], progress: &Progress) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", &self.config).current_dir(folder).arg("-qq").args(arguments);
        progress.run(what, &mut command, &self.logs.join(format!("apt-{}.log", arguments[0])))
    }
}

/// Unpacks the packages in a folder.
fn unpack_all(folder: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg").arg("-x").args([&file, into]))?;
        }
    }
    Ok(())
}

/// Returns this machine's own archive entries, rewritten by `rewrite`, which takes them and the release they are for.
fn sources(rewrite: impl Fn(&str, &str) -> String) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let here = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or(RELEASE);
    let modern = Path::new("/etc/apt/sources.list.d/debian.sources");
    if let Ok(text) = fs::read_to_string(modern) {
        return Ok(rewrite(&text, here));
    }
    let classic = fs::read_to_string("/etc/apt/sources.list").context(
        "neither /etc/apt/sources.list.d/debian.sources nor /etc/apt/sources.list: the parts come from Debian's archive",
    )?;
    Ok(rewrite(&modernised(&classic), here))
}

/// Rewrites a deb822 text so that it serves [`RELEASE`].
fn with_release(text: &str, here: &str) -> String {
    text.lines().fold(String::new(), |all, line| {
        let line = match line.split_once(':') {
            Some(("Suites", suites)) => format!("Suites:{}", suites.replace(here, RELEASE)),
            _ => line.to_owned(),
        };
        all + &line + "\n"
    })
}

/// Rewrites a deb822 text so that it serves these releases and their backports.
fn with_releases(text: &str, here: &str, releases: &[&str]) -> String {
    text.lines().fold(String::new(), |all, line| {
        let line = match line.split_once(':') {
            Some(("Suites", suites)) => releases.iter().fold("Suites:".to_owned(), |line, release| {
                let is_main = suites.split_whitespace().any(|suite| suite == here);
                let backports = if is_main { format!(" {release}-backports") } else { String::new() };
                format!("{line} {}{backports}", suites.trim().replace(here, release))
            }),
            _ => line.to_owned(),
        };
        all + &line + "\n"
    })
}

/// Returns one-line entries (`deb [options] address suite component…`) as deb822 stanzas, without the options.
fn modernised(classic: &str) -> String {
    classic
        .lines()
        .filter_map(|line| line.trim().strip_prefix("deb "))
        .filter_map(|line| {
            let line = line.trim();
            let rest = if line.starts_with('[') { line.split_once(']')?.1 } else { line };
            let (address, rest) = rest.trim().split_once(' ')?;
            let (suite, components) = rest.trim().split_once(' ')?;
            Some(format!("Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: {}\n\n", components.trim()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_another_release_are_rewritten() {
        let text =
            with_release("Types: deb\nURIs: http://archive.test/debian\nSuites: trixie trixie-updates\n", "trixie");
        assert_eq!(text, "Types: deb\nURIs: http://archive.test/debian\nSuites: bookworm bookworm-updates\n");
    }

    #[test]
    fn entries_are_rewritten_for_several_releases() {
        let main = with_releases("URIs: x\nSuites: trixie trixie-updates\n", "trixie", &["bullseye", "sid"]);
        let suites = "bullseye bullseye-updates bullseye-backports sid sid-updates sid-backports";
        assert_eq!(main, format!("URIs: x\nSuites: {suites}\n"));
        let security = with_releases("Suites: trixie-security\n", "trixie", &["bullseye", "sid"]);
        assert_eq!(security, "Suites: bullseye-security sid-security\n");
    }

    #[test]
    fn one_line_entries_become_stanzas() {
        let text = modernised("# deb no\ndeb [signed-by=/k] http://archive.test/debian bookworm main contrib\n");
        assert_eq!(
            text,
            "Types: deb\nURIs: http://archive.test/debian\nSuites: bookworm\nComponents: main contrib\n\n"
        );
    }
}
