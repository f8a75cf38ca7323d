//! One API server for all tests.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use xtask::deploy;
use xtask::lab::pki;
use xtask::progress::{Progress, output};
use xtask::setup::{self, Release};

/// Counts of requests by method and kind.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<HashMap<(String, String), usize>>>);

impl Counts {
    fn count(&self, method: &str, path: &str) {
        let kinds = ["ipclaims", "spiderendpoints", "spiderippools", "events"];
        let Some(kind) = path.split('/').find(|part| kinds.contains(part)) else { return };
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((method.to_owned(), kind.to_owned()))
            .or_default() += 1;
    }

    /// The writes to objects of a kind.
    pub(crate) fn writes(&self, kind: &str) -> usize {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().filter(|((method, of), _)| method != "GET" && of == kind).map(|(_, count)| count).sum()
    }
}

/// etcd and API server. They end with the tests' process.
pub(crate) struct Server {
    kubeconfig: Kubeconfig,
    /// The path of the kubeconfig.
    file: PathBuf,
    exclusive: Arc<AsyncMutex<()>>,
    _processes: [Child; 2],
    _folder: TempDir,
}

impl Server {
    /// Returns the server, started at the first call.
    pub(crate) fn get() -> Result<&'static Self> {
        static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let (started, starting) = mpsc::channel();
            // The thread stays, and with it its children.
            thread::spawn(move || {
                drop(started.send(Self::start().map_err(|error| format!("{error:#}"))));
                loop {
                    thread::park();
                }
            });
            starting.recv().unwrap_or_else(|_| Err("the thread that starts the API server ended".to_owned()))
        });
        server.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Waits until no other test uses the server; the test has it exclusively while the guard is kept.
    pub(crate) async fn take(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.exclusive).lock_owned().await
    }

    /// Returns a client's configuration for it.
    pub(crate) async fn config(&self) -> Result<Config> {
        Ok(Config::from_custom_kubeconfig(self.kubeconfig.clone(), &KubeConfigOptions::default()).await?)
    }

    /// A client of its own, so that tests do not wait for each other's connections.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(Client::try_from(self.config().await?)?)
    }

    /// A client whose requests are counted.
    pub(crate) async fn counted(&self) -> Result<(Client, Counts)> {
        let config = self.config().await?;
        let counts = Counts::default();
        let counting = counts.clone();
        let layer = tower::util::MapRequestLayer::new(move |request: http::Request<Body>| {
            counting.count(request.method().as_str(), request.uri().path());
            request
        });
        Ok((ClientBuilder::try_from(config)?.with_layer(&layer).build(), counts))
    }

    /// The test `name` in a process of its own, with what it finds in its environment.
    pub(crate) fn process(&self, name: &str, environment: &[(&str, &str)]) -> Result<Process> {
        let mut command = with_parent(&std::env::current_exe()?);
        command.args(["--exact", name, "--nocapture"]).env("KUBECONFIG", &self.file);
        // Its own summary is none of this run's.
        command.envs(environment.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Process(command.spawn().with_context(|| format!("cannot start {name} in a process of its own"))?))
    }

    fn start() -> Result<Self> {
        if let Ok(filter) = std::env::var("HOLDFAST_LOG") {
            holdfast_agent::telemetry::init(&filter)?;
        }
        let progress = Progress::new();
        let programs = setup::parts(Release::of_environment()?, &progress)?.join("bin");
        let folder = tempfile::tempdir()?;
        let keys = folder.path().join("pki");
        pki::create(&keys)?;
        let (client_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let etcd = start(
            folder.path(),
            "etcd",
            &programs.join("etcd"),
            &[
                format!("--data-dir={}", folder.path().join("etcd").display()),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--unsafe-no-fsync=true".to_owned(),
            ],
        )?;
        let key = |file: &str| keys.join(file).display().to_string();
        let api = start(
            folder.path(),
            "apiserver",
            &programs.join("kube-apiserver"),
            &[
                format!("--etcd-servers={etcd_url}"),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--cert-dir={}", folder.path().join("certificates").display()),
                format!("--tls-cert-file={}", key("apiserver.crt")),
                format!("--tls-private-key-file={}", key("apiserver.key")),
                format!("--client-ca-file={}", key("ca.crt")),
                format!("--service-account-key-file={}", key("sa.pub")),
                format!("--service-account-signing-key-file={}", key("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                // No controller makes service accounts or takes taints off nodes.
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,Priority".to_owned(),
            ],
        )?;
        let file = keys.join("admin.kubeconfig");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        config["clusters"][0]["cluster"]["server"] = format!("https://127.0.0.1:{port}").into();
        std::fs::write(&file, config.to_string())?;
        let server = Self {
            kubeconfig: Kubeconfig::read_from(&file)?,
            file: file.clone(),
            exclusive: Arc::default(),
            _processes: [etcd, api],
            _folder: folder,
        };
        let kubectl = |arguments: &[&str]| {
            let mut command = Command::new(programs.join("kubectl"));
            command.arg("--kubeconfig").arg(&file).arg("--cache-dir").arg(keys.join("cache")).args(arguments);
            output(&mut command)
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while kubectl(&["get", "--raw", "/readyz"]).is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(keys.with_file_name("apiserver.log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(5).collect();
                bail!("the API server is not ready after two minutes: {}", tail.join(" | "));
            }
            thread::sleep(Duration::from_millis(100));
        }
        let kinds = deploy::chart().join("crds");
        kubectl(&["apply", "-f", &kinds.display().to_string()])?;
        kubectl(&["wait", "--for=condition=Established", "crd", "--timeout=60s", "--all"])?;
        Ok(server)
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process that is killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_default();
    }
}

/// The kernel ends the process when the thread that started it ends: the tests' process may be killed at any time.
fn with_parent(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "SIGKILL", "--"]).arg(program);
    command
}

fn start(folder: &Path, name: &str, program: &Path, arguments: &[String]) -> Result<Child> {
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    let mut command = with_parent(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {name}"))
}
