//! The lower bounds on this machine: an empty process, and single API requests.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    api::{DeleteParams, ListParams, PostParams},
    config::Kubeconfig,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use xtask::progress::output;

use crate::{figures::Figures, workload::NAMESPACE, world::connect};

/// The source of a program that reads stdin to its end, as a plugin does, and exits.
const SOURCE: &str =
    "#include <unistd.h>\nint main(void) { char text[4096]; while (read(0, text, sizeof text) > 0) {} return 0; }\n";

/// A static program that does nothing.
pub(super) struct Noop {
    program: PathBuf,
    _folder: TempDir,
}

impl Noop {
    pub(super) fn build() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (source, program) = (folder.path().join("noop.c"), folder.path().join("noop"));
        File::create(&source)?.write_all(SOURCE.as_bytes())?;
        output(Command::new("gcc").args(["-static", "-O2", "-o"]).arg(&program).arg(&source))?;
        Ok(Self { program, _folder: folder })
    }

    /// Returns the time from before it is started until after it has ended.
    pub(super) fn run(&self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let begun = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        child.stdin.take().context("a pipe was asked for")?.write_all(b"{}")?;
        let ended = child.wait_with_output()?;
        let took = begun.elapsed();
        ensure!(ended.status.success(), "{} failed", self.program.display());
        Ok(took)
    }
}

/// Single requests over TLS, one after the other over one connection, from the node that the calling thread is on.
pub(super) struct Api {
    runtime: Runtime,
    objects: kube::Api<ConfigMap>,
    get: Figures,
    create: Figures,
    put: Figures,
}

impl Api {
    pub(super) fn connect(kubeconfig: Kubeconfig) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(connect(kubeconfig))?;
        let objects = kube::Api::namespaced(client, NAMESPACE);
        // The handshake belongs to none of them.
        runtime.block_on(objects.list(&ListParams::default().limit(1)))?;
        let [get, create, put] = ["API server: get", "API server: create", "API server: put"].map(Figures::new);
        Ok(Self { runtime, objects, get, create, put })
    }

    /// Sends each request once, with an object of a kilobyte.
    pub(super) fn round(&mut self, number: usize) -> Result<()> {
        let name = format!("floor-{number}");
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.clone());
        object.data = Some(BTreeMap::from([("text".to_owned(), "x".repeat(1024))]));
        let post = PostParams::default();
        let begun = Instant::now();
        self.runtime.block_on(self.objects.create(&post, &object))?;
        self.create.add(begun.elapsed());
        let begun = Instant::now();
        let mut there = self.runtime.block_on(self.objects.get(&name))?;
        self.get.add(begun.elapsed());
        there.data = Some(BTreeMap::from([("text".to_owned(), "y".repeat(1024))]));
        let begun = Instant::now();
        self.runtime.block_on(self.objects.replace(&name, &post, &there))?;
        self.put.add(begun.elapsed());
        self.runtime.block_on(self.objects.delete(&name, &DeleteParams::default()))?;
        Ok(())
    }

    pub(super) fn print(&self) {
        for figures in [&self.get, &self.create, &self.put] {
            figures.print();
        }
    }
}
