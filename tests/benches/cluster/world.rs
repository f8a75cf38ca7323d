//! The cluster that is measured.

use std::{fs::File, time::Duration};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Runtime};
use xtask::{
    cluster::Cluster,
    lab::{Lab, NodeDescription},
    progress::{Poll, Progress},
};

const NAME: &str = "HOLDFAST_LAB_NAME";

/// The laboratory, with holdfast installed.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) progress: Progress,
    pub(crate) client: Client,
    pub(crate) kubeconfig: Kubeconfig,
    runtime: Runtime,
}

impl World {
    /// Enters the control plane's network, where alone the API server's address is reachable. Threads that are started
    /// from here on are in it too.
    pub(crate) fn enter() -> Result<Self> {
        let name = std::env::var(NAME)
            .with_context(|| format!("{NAME} names no laboratory to measure: run `cargo xtask bench cluster`"))?;
        let lab = Lab::load(&name)?;
        let kubeconfig = Kubeconfig::read_from(&lab.description().kubeconfig)?;
        let network = File::open(&lab.description().netns.cp).context("the control plane's network namespace")?;
        setns(network, CloneFlags::CLONE_NEWNET).context("entering the control plane's network needs root")?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(connect(kubeconfig.clone()))?;
        Ok(Self { cluster: Cluster::Lab(lab), progress: Progress::new(), client, kubeconfig, runtime })
    }

    pub(crate) fn lab(&self) -> &Lab {
        match &self.cluster {
            Cluster::Lab(lab) => lab,
            _ => unreachable!("the world is made of a laboratory"),
        }
    }

    /// Returns the laboratory's description of a node.
    pub(crate) fn node(&self, name: &str) -> Result<&NodeDescription> {
        let node = self.lab().description().nodes.iter().find(|node| node.name == name);
        node.with_context(|| format!("the laboratory has no node {name}"))
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Polls until `look` has a result.
    pub(crate) fn wait<T>(&self, what: &str, look: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
        self.progress.wait(what, Duration::from_secs(180), look)
    }
}

/// Returns a client that connects from the network namespace of its first use.
pub(crate) async fn connect(kubeconfig: Kubeconfig) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
