//! Invariants of all pods of a test's namespace: they hold at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use xtask::progress::Poll;

use crate::namespace::{LIMIT, TestNamespace, is_ready, text};

/// Shortest time between two checks: the cluster has little to run on.
const PACE: Duration = Duration::from_millis(200);

/// The invariants of a test's pods, checked at intervals.
pub(crate) struct Invariants<'a> {
    namespace: &'a TestNamespace,
    next: Instant,
}

impl<'a> Invariants<'a> {
    pub(crate) fn new(namespace: &'a TestNamespace) -> Self {
        Self { namespace, next: Instant::now() }
    }

    /// Returns all pods, or nothing within [`PACE`] of the check before. An error if two Ready pods share an address, or a
    /// Ready pod has an address that its endpoint does not list.
    pub(crate) fn check(&mut self) -> Result<Option<Vec<Value>>> {
        if Instant::now() < self.next {
            return Ok(None);
        }
        let pods = self.namespace.all_pods()?;
        let ready: Vec<&Value> = pods.iter().filter(|pod| is_ready(pod)).collect();
        no_two_share(&ready)?;
        self.all_are_listed(&ready)?;
        self.next = Instant::now() + PACE;
        Ok(Some(pods))
    }

    /// Waits until there are exactly this many pods of each app, all Ready.
    pub(crate) fn settles(&mut self, wanted: &[(&str, usize)]) -> Result<()> {
        let apps = wanted.iter().map(|(app, _)| *app);
        self.until(&format!("{wanted:?} to be Ready"), |pods| {
            let count = |app: &str| pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == app).count();
            let all: Vec<(&str, usize)> = apps.clone().map(|app| (app, count(app))).collect();
            all == wanted && pods.iter().all(is_ready)
        })
    }

    /// Waits until `accept` is true of the pods.
    pub(crate) fn until(&mut self, what: &str, accept: impl Fn(&[Value]) -> bool) -> Result<()> {
        let namespace = self.namespace;
        let mut seen = String::new();
        namespace.wait(what, LIMIT, || {
            if let Some(pods) = self.check()? {
                if accept(&pods) {
                    return Ok(Poll::Ready(()));
                }
                seen = pods.iter().map(describe).collect::<Vec<_>>().join(", ");
            }
            Ok(Poll::Pending(seen.clone()))
        })
    }

    fn all_are_listed(&self, ready: &[&Value]) -> Result<()> {
        let endpoints = self.namespace.endpoints()?;
        let listed: BTreeMap<_, _> = endpoints.iter().map(|it| (it["metadata"]["name"].as_str(), listed(it))).collect();
        for pod in ready {
            let (has, listed) = (addresses(pod), listed.get(&pod["metadata"]["name"].as_str()));
            if listed == Some(&has) {
                continue;
            }
            // It may have gone between the two lists.
            let name = text(pod, "/metadata/name")?;
            let now = self.namespace.pod(name)?.filter(|now| now["metadata"]["uid"] == pod["metadata"]["uid"]);
            if now.is_some_and(|now| is_ready(&now)) {
                bail!("{name} is Ready with {has:?}, its endpoint lists {listed:?}");
            }
        }
        Ok(())
    }
}

fn no_two_share(ready: &[&Value]) -> Result<()> {
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

/// Returns the addresses in a pod's status.
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
