//! All pods of a stage at once: what has to be true of them at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use xtask::progress::Look;

use crate::stage::{LIMIT, Stage, is_ready, text};

/// Between two looks, at least: the cluster has little to run on.
const PACE: Duration = Duration::from_millis(200);

/// Looks at a stage's pods.
pub(crate) struct Census<'a> {
    stage: &'a Stage,
    next: Instant,
}

impl<'a> Census<'a> {
    pub(crate) fn new(stage: &'a Stage) -> Self {
        Self { stage, next: Instant::now() }
    }

    /// All pods, unless they were looked at a moment ago. An error if two that are Ready share an address, or one has
    /// another than its endpoint lists.
    pub(crate) fn take(&mut self) -> Result<Option<Vec<Value>>> {
        if Instant::now() < self.next {
            return Ok(None);
        }
        let pods = self.stage.all_pods()?;
        let ready: Vec<&Value> = pods.iter().filter(|pod| is_ready(pod)).collect();
        nobody_shares(&ready)?;
        self.all_are_listed(&ready)?;
        self.next = Instant::now() + PACE;
        Ok(Some(pods))
    }

    /// Waits until there are exactly so many pods of each app, all Ready.
    pub(crate) fn settles(&mut self, wanted: &[(&str, usize)]) -> Result<()> {
        let apps = wanted.iter().map(|(app, _)| *app);
        self.until(&format!("{wanted:?} to be Ready"), |pods| {
            let count = |app: &str| pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count();
            let all: Vec<(&str, usize)> = apps.clone().map(|app| (app, count(app))).collect();
            all == wanted && pods.iter().all(is_ready)
        })
    }

    /// Waits until the pods are as `accept` wants them.
    pub(crate) fn until(&mut self, what: &str, accept: impl Fn(&[Value]) -> bool) -> Result<()> {
        let stage = self.stage;
        let mut seen = String::new();
        stage.wait(what, LIMIT, || {
            if let Some(pods) = self.take()? {
                if accept(&pods) {
                    return Ok(Look::Done(()));
                }
                seen = pods.iter().map(describe).collect::<Vec<_>>().join(", ");
            }
            Ok(Look::NotYet(seen.clone()))
        })
    }

    fn all_are_listed(&self, ready: &[&Value]) -> Result<()> {
        let endpoints = self.stage.endpoints()?;
        let listed: BTreeMap<_, _> = endpoints.iter().map(|it| (it["metadata"]["name"].as_str(), listed(it))).collect();
        for pod in ready {
            let (has, listed) = (addresses(pod), listed.get(&pod["metadata"]["name"].as_str()));
            if listed == Some(&has) {
                continue;
            }
            // It may have gone between the two lists.
            let name = text(pod, "/metadata/name")?;
            let now = self.stage.pod(name)?.filter(|now| now["metadata"]["uid"] == pod["metadata"]["uid"]);
            if now.is_some_and(|now| is_ready(&now)) {
                bail!("{name} is Ready with {has:?}, its endpoint lists {listed:?}");
            }
        }
        Ok(())
    }
}

fn nobody_shares(ready: &[&Value]) -> Result<()> {
    let mut holders = BTreeMap::new();
    for pod in ready {
        for address in addresses(pod) {
            if let Some(other) = holders.insert(address.clone(), &pod["metadata"]["name"]) {
                bail!("{other} and {} are both Ready with {address}", pod["metadata"]["name"]);
            }
        }
    }
    Ok(())
}

/// The addresses that a pod shows.
fn addresses(pod: &Value) -> BTreeSet<String> {
    let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["ip"].as_str()).map(str::to_owned).collect()
}

fn listed(endpoint: &Value) -> BTreeSet<String> {
    let ips = endpoint["status"]["current"]["ips"].as_array().into_iter().flatten();
    let nets = ips.flat_map(|ip| [&ip["ipv4"], &ip["ipv6"]]).filter_map(Value::as_str);
    nets.filter_map(|net| net.split('/').next()).map(str::to_owned).collect()
}

fn describe(pod: &Value) -> String {
    let state = match (is_ready(pod), pod["metadata"]["deletionTimestamp"].is_null()) {
        (true, _) => "Ready",
        (false, true) => "not Ready",
        (false, false) => "going",
    };
    format!("{} {state}", pod["metadata"]["name"].as_str().unwrap_or_default())
}
