//! The cluster that all tests share.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use xtask::cluster::Cluster;
use xtask::lab::Lab;
use xtask::progress::{Poll, Progress};

use crate::api::Api;
use crate::exclusive::Laboratory;
use crate::whole;

/// The label of the namespaces and pools of tests.
pub(crate) const LABEL: &str = "holdfast.io/test";

const NAME: &str = "HOLDFAST_LAB_NAME";

/// The laboratory, with holdfast installed.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) api: Api,
    pub(crate) progress: Progress,
    pub(crate) laboratory: Laboratory,
}

impl World {
    /// Returns the world, entered at the first call. An error says what to run first.
    pub(crate) fn get() -> Result<&'static Self> {
        static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
        let world = WORLD.get_or_init(|| Self::enter().map_err(|error| format!("{error:#}")));
        world.as_ref().map_err(|error| anyhow!("{error}"))
    }

    fn enter() -> Result<Self> {
        let name = std::env::var(NAME).with_context(|| {
            format!(
                "{NAME} names no laboratory to test on: run `cargo xtask test cluster`, or `cargo xtask lab up` and \
                 `cargo xtask lab install`, then these tests with {NAME}=lab"
            )
        })?;
        let lab = Lab::load(&name)?;
        let api = Api::start(lab.description())?;
        let world =
            Self { cluster: Cluster::Lab(lab), api, progress: Progress::new(), laboratory: Laboratory::default() };
        world.clear().context("removing what an earlier run of the tests left")?;
        whole::wait(&world)?;
        Ok(world)
    }

    pub(crate) fn lab(&self) -> &Lab {
        match &self.cluster {
            Cluster::Lab(lab) => lab,
            _ => unreachable!("the world is made of a laboratory"),
        }
    }

    /// Looks until `look` returns something.
    pub(crate) fn wait<T>(&self, what: &str, seconds: u64, look: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
        self.progress.wait(what, Duration::from_secs(seconds), look)
    }

    /// Removes what an earlier run left that was killed: its addresses are in the way of this one.
    fn clear(&self) -> Result<()> {
        self.cluster.run(&["delete", "namespaces,spiderippools,spiderreservedips", "-l", LABEL])?;
        self.wait("the addresses of an earlier run to be free", 60, || {
            let left = self.api.list("/apis/holdfast.io/v1alpha1/ipclaims", "")?;
            let left =
                left.iter().filter(|claim| claim["spec"]["pool"].as_str().is_some_and(|pool| pool.starts_with("t-")));
            Ok(match left.count() {
                0 => Poll::Ready(()),
                count => Poll::Pending(format!("{count} are claimed")),
            })
        })
    }
}
