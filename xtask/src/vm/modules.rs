//! Kernel modules: which ones a module needs, without depmod.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The modules of one kernel.
pub(super) struct Modules {
    files: HashMap<String, PathBuf>,
    /// Names of what the kernel has without a module.
    builtin: Vec<String>,
}

impl Modules {
    /// Finds them in an unpacked package.
    pub(super) fn find(root: &Path) -> Result<Self> {
        let mut modules = Self { files: HashMap::new(), builtin: Vec::new() };
        modules.search(root)?;
        Ok(modules)
    }

    /// Returns true if there is a file of the module.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Returns the `wanted` modules and what they need, in an order in which they can be loaded.
    pub(super) fn in_order(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        for name in wanted {
            self.add(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if self.builtin.iter().any(|builtin| builtin == name) || ordered.iter().any(|(there, _)| there == name) {
            return Ok(());
        }
        let file = self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let bytes = read(file)?;
        for needed in depends(&bytes) {
            self.add(&needed, ordered)?;
        }
        ordered.push((name.to_owned(), bytes));
        Ok(())
    }

    fn search(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))?;
            if path.is_dir() && !path.is_symlink() {
                self.search(&path)?;
            } else if name == "modules.builtin" {
                let lines = fs::read_to_string(&path)?;
                self.builtin.extend(lines.lines().filter_map(|line| module(line.rsplit('/').next()?)));
            } else if let Some(name) = module(&name) {
                self.files.insert(name, path);
            }
        }
        Ok(())
    }
}

/// Returns the module in a file of this name. Files may have dashes where modules have underscores.
fn module(file: &str) -> Option<String> {
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("reading {}", file.display())),
    };
    let result = Command::new(program).args(["-q", "-d", "-c"]).arg(file).stdin(Stdio::null()).output();
    let result = result.with_context(|| format!("cannot start {program} to read {}", file.display()))?;
    if !result.status.success() {
        bail!("{program} cannot read {}: {}", file.display(), String::from_utf8_lossy(&result.stderr).trim());
    }
    Ok(result.stdout)
}

/// Returns the modules that a module says it needs: `depends=a,b` between zeroes in its section `.modinfo`.
fn depends(bytes: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = bytes.windows(FIELD.len()).position(|window| window == FIELD) else { return Vec::new() };
    let value = bytes[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_modules_come_first_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("llc.ko", "ELF\0license=GPL\0depends=\0name=llc\0");
        write("stp.ko", "\0depends=llc\0");
        write("bridge.ko", "\0depends=stp,llc,veth\0");
        write("modules.builtin", "kernel/net/veth.ko\n");
        let modules = Modules::find(folder.path()).unwrap();
        let names: Vec<_> = modules.in_order(&["bridge", "llc"]).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["llc", "stp", "bridge"]);
        assert_eq!(modules.in_order(&["dummy"]).unwrap_err().to_string(), "the kernel has no module dummy");
    }

    #[test]
    fn files_are_known_by_their_names() {
        assert_eq!(module("nf-conntrack.ko.xz").as_deref(), Some("nf_conntrack"));
        assert_eq!(module("veth.ko").as_deref(), Some("veth"));
        assert_eq!(module("veth.kore"), None);
    }
}
