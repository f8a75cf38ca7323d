//! The kernels that Debian serves.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::modules::Modules;
use crate::cache;
use crate::progress::Progress;
use crate::setup::apt::PrivateApt;

/// To be raised when what [`prepare`] leaves changes in a way that its other inputs do not show.
const RECIPE: &str = "1";
/// The releases that are searched for kernels, with updates, security updates and backports. Those that the archive does not have
/// (any more) are passed over.
const RELEASES: [&str; 5] = ["bullseye", "bookworm", "trixie", "forky", "unstable"];
/// The package that stands for a release's kernel.
const META: &str = "linux-image-amd64";
/// The series that are tested as long as they are served, beside the oldest and the newest.
const ALWAYS: [&str; 2] = ["6.1", "6.12"];
/// The modules that the tests need for links and qdiscs.
const MODULES: [&str; 9] =
    ["veth", "bridge", "8021q", "macvlan", "ipvlan", "dummy", "sch_ingress", "cls_bpf", "nf_conntrack_netlink"];
/// The module to load before those, if a kernel has it as a module: `libcrc32c`, which conntrack needs, requests it by
/// its algorithm and not by name.
const FIRST: &str = "crc32c_generic";
/// The maximum age of the package lists. Kernels come every few weeks.
const LISTS_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A kernel that Debian serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The package's version.
    version: String,
    /// The package.
    image: String,
}

impl Kernel {
    /// Returns the numbers of its upstream version.
    fn numbers(&self) -> Vec<u32> {
        let upstream = self.version.split(['-', '~', '+']).next().unwrap_or_default();
        upstream.split('.').map_while(|number| number.parse().ok()).collect()
    }

    /// Returns its series, for example `6.1`.
    pub fn series(&self) -> String {
        self.numbers().iter().take(2).map(u32::to_string).collect::<Vec<_>>().join(".")
    }

    /// Returns true if a prefix such as `6`, `6.1` or `6.1.192` selects it.
    fn is(&self, wanted: &str) -> bool {
        let numbers: Vec<String> = self.numbers().iter().map(u32::to_string).collect();
        numbers.starts_with(&wanted.split('.').map(str::to_owned).collect::<Vec<_>>())
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linux {}", self.version)
    }
}

impl Ord for Kernel {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.numbers(), &self.version).cmp(&(other.numbers(), &other.version))
    }
}

impl PartialOrd for Kernel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The files that a boot needs of a kernel.
pub(super) struct Files {
    pub(super) vmlinuz: PathBuf,
    /// The modules, in the order in which they are loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// Returns the newest kernel of each series that is served, the oldest series first.
pub(super) fn served(progress: &Progress) -> Result<Vec<Kernel>> {
    let kernels = newest_of_each(parse(&apt(progress)?.show(META)?));
    ensure!(!kernels.is_empty(), "Debian's archive has no {META}");
    let series: Vec<_> = kernels.iter().map(Kernel::series).collect();
    progress.log(format!("kernels that Debian serves: {}", series.join(", ")));
    Ok(kernels)
}

/// Returns the `wanted` kernels; if none are named, the oldest, the newest and [`ALWAYS`].
pub(super) fn choose<'a>(served: &'a [Kernel], wanted: &[String]) -> Result<Vec<&'a Kernel>> {
    for wanted in wanted {
        if !served.iter().any(|kernel| kernel.is(wanted)) {
            let there: Vec<_> = served.iter().map(ToString::to_string).collect();
            bail!("Debian serves no Linux {wanted}, but {}", there.join(", "));
        }
    }
    let edge = |kernel| served.first() == Some(kernel) || served.last() == Some(kernel);
    let chosen = served.iter().filter(|kernel| match wanted {
        [] => edge(kernel) || ALWAYS.contains(&kernel.series().as_str()),
        wanted => wanted.iter().any(|wanted| kernel.is(wanted)),
    });
    Ok(chosen.collect())
}

/// Fetches a kernel, unless it is in the cache.
pub(super) fn prepare(kernel: &Kernel, progress: &Progress) -> Result<Files> {
    let key = cache::key(&[RECIPE, &kernel.image, &kernel.version, FIRST, &MODULES.join(" ")].map(str::as_bytes));
    let what = format!("vm-linux-{}", kernel.series());
    let folder = cache::ensure(&cache::root()?, &what, &key, progress, |folder| {
        let work = folder.join("work");
        let apt = apt(progress)?;
        let about = apt.show(&format!("{}={}", kernel.image, kernel.version))?;
        let packages = packages(kernel, &about);
        let packages: Vec<_> = packages.iter().map(String::as_str).collect();
        progress.log(format!("fetching {kernel}"));
        apt.unpack(&packages, &work.join("packages"), &work.join("root"), progress)?;
        fs::copy(vmlinuz(&work.join("root"))?, folder.join("vmlinuz"))?;
        fs::create_dir(folder.join("modules"))?;
        let modules = Modules::find(&work.join("root"))?;
        let wanted: Vec<_> = modules.has(FIRST).then_some(FIRST).into_iter().chain(MODULES).collect();
        for (number, (name, bytes)) in modules.in_order(&wanted)?.iter().enumerate() {
            fs::write(folder.join(format!("modules/{number:02}-{name}.ko")), bytes)?;
        }
        Ok(fs::remove_dir_all(work)?)
    })?;
    let mut modules =
        fs::read_dir(folder.join("modules"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    modules.sort();
    Ok(Files { vmlinuz: folder.join("vmlinuz"), modules })
}

/// Returns an apt that knows all releases.
fn apt(progress: &Progress) -> Result<PrivateApt> {
    let root = cache::root()?;
    let (folder, read) = (root.join("vm-apt"), root.join("vm-apt.read"));
    let age = fs::metadata(&read).and_then(|stamp| stamp.modified()).ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age < LISTS_AGE) {
        return Ok(PrivateApt::again(&folder, &root));
    }
    let apt = PrivateApt::of_releases(&folder, &root, &RELEASES, progress)?;
    // If no list could be fetched, the next run has to fetch again and not wait for a week.
    apt.show(META).context("no package list of any release could be read")?;
    fs::write(read, "")?;
    Ok(apt)
}

/// Returns the kernel's package and those of its dependencies that are its own parts: newer kernels have several
/// packages.
fn packages(kernel: &Kernel, about: &str) -> Vec<String> {
    let version = &kernel.version;
    let exactly = format!(" (= {version})");
    let parts = field(about, "Depends").into_iter().flat_map(|depends| depends.split(", "));
    let parts = parts.filter_map(|part| part.strip_suffix(&exactly)).filter(|part| part.starts_with("linux-"));
    std::iter::once(kernel.image.as_str()).chain(parts).map(|package| format!("{package}={version}")).collect()
}

/// Returns the output of `apt-cache show` for [`META`].
fn parse(paragraphs: &str) -> Vec<Kernel> {
    let kernel = |paragraph| {
        let depends = field(paragraph, "Depends")?.split(", ");
        let image = depends.filter_map(|part| part.split(' ').next()).find(|part| part.starts_with("linux-image-"))?;
        Some(Kernel { version: field(paragraph, "Version")?.to_owned(), image: image.to_owned() })
    };
    paragraphs.split("\n\n").filter_map(kernel).collect()
}

fn newest_of_each(mut kernels: Vec<Kernel>) -> Vec<Kernel> {
    kernels.sort_by(|a, b| b.cmp(a));
    kernels.dedup_by_key(|kernel| kernel.series());
    kernels.reverse();
    kernels
}

fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Returns the kernel's own file in the unpacked packages.
fn vmlinuz(root: &Path) -> Result<PathBuf> {
    let folders = ["boot", "usr/lib/modules", "lib/modules"].map(|folder| root.join(folder));
    let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = folders
        .iter()
        .flat_map(|folder| inside(folder))
        .flat_map(|path| if path.is_dir() { inside(&path).collect() } else { vec![path] });
    let mut kernels =
        files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    kernels.next().context("no vmlinuz in the kernel's packages")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-image-amd64\nVersion: 7.3.4-1~bpo13+1\n\
        Depends: linux-base-amd64 (= 7.3.4-1~bpo13+1), linux-image-7.3.4+deb13-amd64 (= 7.3.4-1~bpo13+1)\n\n\
        Package: linux-image-amd64\nVersion: 6.12.95-1~bpo12+1\nDepends: linux-image-6.12.95+deb12-amd64 (= 6.12.95-1)\n\n\
        Package: linux-image-amd64\nVersion: 6.12.117-1\nDepends: linux-image-6.12.117+deb13-amd64 (= 6.12.117-1)\n\n\
        Package: linux-image-amd64\nVersion: 6.6.8-1\nDepends: linux-image-6.6.8-amd64 (= 6.6.8-1)\n\n\
        Package: linux-image-amd64\nVersion: 5.10.223-1\nDepends: linux-image-5.10.0-32-amd64 (= 5.10.223-1)\n";

    fn chosen(wanted: &[&str]) -> Result<Vec<String>> {
        let served = newest_of_each(parse(SHOWN));
        let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        Ok(choose(&served, &wanted)?.into_iter().map(|kernel| kernel.version.clone()).collect())
    }

    #[test]
    fn oldest_newest_and_some_between_are_chosen() {
        assert_eq!(chosen(&[]).unwrap(), ["5.10.223-1", "6.12.117-1", "7.3.4-1~bpo13+1"]);
    }

    #[test]
    fn wanted_ones_are_chosen_by_their_numbers() {
        assert_eq!(chosen(&["6.6", "7"]).unwrap(), ["6.6.8-1", "7.3.4-1~bpo13+1"]);
        let error = chosen(&["6.1"]).unwrap_err().to_string();
        assert!(error.starts_with("Debian serves no Linux 6.1, but Linux 5.10.223-1, Linux 6.6.8-1"), "{error}");
    }

    #[test]
    fn the_parts_of_a_kernel_come_with_it() {
        let kernel = Kernel { version: "7.3-1".into(), image: "linux-image-7.3".into() };
        let about =
            "Depends: dracut | initramfs-tools, linux-binary-7.3 (= 7.3-1), kmod, linux-modules-7.3 (= 7.3-1)\n";
        let names = ["linux-image-7.3=7.3-1", "linux-binary-7.3=7.3-1", "linux-modules-7.3=7.3-1"];
        assert_eq!(packages(&kernel, about), names);
    }
}
