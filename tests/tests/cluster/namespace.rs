//! One test's namespace, and two pools whose addresses no other test has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use xtask::progress::Poll;

use crate::exclusive::Guard;
use crate::manifest;
use crate::whole;
use crate::world::{LABEL, World};

/// Seconds that anything without a limit of its own may take. A deleted pod may have to wait for its kubelet's collection
/// of containers, which comes once a minute.
pub(crate) const LIMIT: u64 = 100;

/// Numbers the tests; each has the addresses 172.22.(100+N).* and `fd00:22::1NN:*`.
static NEXT: AtomicU16 = AtomicU16::new(0);

pub(crate) struct TestNamespace {
    pub(crate) world: &'static World,
    pub(crate) name: String,
    pub(crate) pool4: String,
    pub(crate) pool6: String,
    number: u16,
    done: bool,
    guard: Guard,
}

/// The holder of a pod's addresses, as the endpoint records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) ipv4: String,
    pub(crate) ipv6: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) node: String,
    pub(crate) generation: u64,
}

impl TestNamespace {
    /// Makes a namespace for a test that shares the laboratory, with room for `size` addresses of each family.
    pub(crate) fn shared(name: &str, size: u16) -> Result<Self> {
        let world = World::get()?;
        Self::set_up(world, name, size, world.laboratory.share()?)
    }

    /// Makes a namespace for a test that has the laboratory exclusively.
    pub(crate) fn exclusive(name: &str, size: u16) -> Result<Self> {
        let world = World::get()?;
        Self::set_up(world, name, size, world.laboratory.take()?)
    }

    fn set_up(world: &'static World, name: &str, size: u16, guard: Guard) -> Result<Self> {
        let name = format!("t-{name}");
        let (pool4, pool6) = (format!("{name}-v4"), format!("{name}-v6"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { world, name, pool4, pool6, number, done: false, guard };
        namespace.make(size).context("making the namespace")?;
        Ok(namespace)
    }

    fn make(&self, size: u16) -> Result<()> {
        ensure!(self.number < 156, "there are no addresses for more tests");
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": self.name,
            "annotations": {
                "ipam.spidernet.io/default-ipv4-ippool": json!([self.pool4]).to_string(),
                "ipam.spidernet.io/default-ipv6-ippool": json!([self.pool6]).to_string(),
            },
        }});
        let [pool4, pool6] = self.pools([&self.pool4, &self.pool6], 1, size);
        self.apply_labelled(vec![namespace, pool4, pool6])
    }

    /// Makes another pool of each family that nothing names yet, both with the fields of `spec`; returns their names.
    pub(crate) fn more_pools(&self, size: u16, spec: &Value) -> Result<[String; 2]> {
        let names = self.more_names();
        let mut pools = self.pools([&names[0], &names[1]], 129, size);
        for pool in &mut pools {
            for (key, value) in spec.as_object().into_iter().flatten() {
                pool["spec"][key] = value.clone();
            }
        }
        self.apply_labelled(pools.into())?;
        Ok(names)
    }

    fn more_names(&self) -> [String; 2] {
        ["v4", "v6"].map(|family| format!("{}-more-{family}", self.name))
    }

    fn pools(&self, names: [&str; 2], first: u16, size: u16) -> [Value; 2] {
        let (first, last) = (self.addresses(first), self.addresses(first + size - 1));
        let [range4, range6] = [0, 1].map(|family| format!("{}-{}", first[family], last[family]));
        [
            manifest::pool(names[0], "172.22.0.0/16", "172.22.0.1", &range4),
            manifest::pool(names[1], "fd00:22::/64", "fd00:22::1", &range6),
        ]
    }

    /// Applies manifests of cluster-scoped objects that go with the namespace.
    pub(crate) fn apply_labelled(&self, mut items: Vec<Value>) -> Result<()> {
        for item in &mut items {
            item["metadata"]["labels"] = json!({LABEL: self.name});
        }
        self.world.cluster.apply(&manifest::list(&items).to_string()).map(drop)
    }

    /// Returns the namespace's own address with this number, in both families.
    pub(crate) fn addresses(&self, number: u16) -> [String; 2] {
        let net = 100 + self.number;
        [format!("172.22.{net}.{number}"), format!("fd00:22::{net}:{number:x}")]
    }

    /// Returns the third byte of the namespace's IPv4 addresses.
    pub(crate) fn net4(&self) -> u16 {
        100 + self.number
    }

    /// Applies a manifest in the namespace.
    pub(crate) fn apply(&self, mut object: Value) -> Result<()> {
        object["metadata"]["namespace"] = json!(self.name);
        self.world.cluster.apply(&object.to_string()).map(drop)
    }

    /// kubectl in the namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.world.cluster.run(&[&["-n", &self.name], arguments].concat())
    }

    /// Looks until `look` returns something.
    pub(crate) fn wait<T>(&self, what: &str, seconds: u64, look: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
        self.world.wait(what, seconds, look)
    }

    pub(crate) fn pod(&self, name: &str) -> Result<Option<Value>> {
        self.world.api.get(&format!("/api/v1/namespaces/{}/pods", self.name), name)
    }

    pub(crate) fn pods(&self, app: &str) -> Result<Vec<Value>> {
        self.world.api.list(&format!("/api/v1/namespaces/{}/pods", self.name), &format!("app={app}"))
    }

    pub(crate) fn all_pods(&self) -> Result<Vec<Value>> {
        self.world.api.list(&format!("/api/v1/namespaces/{}/pods", self.name), "")
    }

    pub(crate) fn endpoint(&self, name: &str) -> Result<Option<Value>> {
        self.world.api.get(&self.endpoints_path(), name)
    }

    pub(crate) fn endpoints(&self) -> Result<Vec<Value>> {
        self.world.api.list(&self.endpoints_path(), "")
    }

    fn endpoints_path(&self) -> String {
        format!("/apis/spiderpool.spidernet.io/v2beta1/namespaces/{}/spiderendpoints", self.name)
    }

    pub(crate) fn pool(&self, name: &str) -> Result<Value> {
        let pool = self.world.api.get("/apis/spiderpool.spidernet.io/v2beta1/spiderippools", name)?;
        pool.with_context(|| format!("there is no pool {name}"))
    }

    /// Returns the claims of the namespace's addresses, in use or resting.
    pub(crate) fn claims(&self) -> Result<Vec<Value>> {
        let [more4, more6] = self.more_names();
        let pools = format!("holdfast.io/pool in ({},{},{more4},{more6})", self.pool4, self.pool6);
        self.world.api.list("/apis/holdfast.io/v1alpha1/ipclaims", &pools)
    }

    /// Returns the holder of a pod's addresses, also of a pod that is not Ready.
    pub(crate) fn holder(&self, pod: &str) -> Result<Holder> {
        let endpoint = self.endpoint(pod)?.with_context(|| format!("{pod} has no endpoint"))?;
        Holder::of(&endpoint).with_context(|| format!("no container holds the endpoint {endpoint}"))
    }

    /// Waits until the pod is Ready and `accept` takes its holder.
    pub(crate) fn ready_as(&self, name: &str, accept: impl Fn(&Holder) -> bool) -> Result<Holder> {
        self.wait(&format!("pod {}/{name}", self.name), LIMIT, || {
            let Some(pod) = self.pod(name)? else { return Ok(Poll::Pending("it is not there".into())) };
            if !is_ready(&pod) {
                return Ok(Poll::Pending(format!("it is not Ready: {}", pod["status"]["phase"])));
            }
            let holder = self.endpoint(name)?.as_ref().and_then(Holder::of);
            let holder = holder.filter(|holder| pod["metadata"]["uid"] == holder.uid.as_str() && accept(holder));
            Ok(holder.map_or_else(|| Poll::Pending("the endpoint does not name the holder".into()), Poll::Ready))
        })
    }

    pub(crate) fn ready(&self, name: &str) -> Result<Holder> {
        self.ready_as(name, |_| true)
    }

    /// Applies a StatefulSet of one pod that uses its node's network, so that only the test calls plugins for it; returns its
    /// pod once it runs.
    pub(crate) fn pod_without_network(&self, set: &str) -> Result<Value> {
        self.apply(manifest::without_network(set, 1))?;
        self.running(&format!("{set}-0"), "")
    }

    /// Waits until a pod other than the one with UID `before` runs; returns it.
    pub(crate) fn running(&self, name: &str, before: &str) -> Result<Value> {
        self.wait(&format!("pod {}/{name}", self.name), LIMIT, || {
            let pod = self.pod(name)?.filter(|pod| is_ready(pod) && pod["metadata"]["uid"] != before);
            Ok(pod.map_or_else(|| Poll::Pending("it does not run".into()), Poll::Ready))
        })
    }

    /// Waits until `accept` takes the addresses and records in a pool's status.
    pub(crate) fn pool_shows<T>(
        &self,
        pool: &str,
        accept: impl Fn(&BTreeMap<String, Value>) -> Option<T>,
    ) -> Result<T> {
        self.wait(&format!("the view of pool {pool}"), 10, || {
            let status = self.pool(pool)?["status"].take();
            let shown: BTreeMap<String, Value> = match status["allocatedIPs"].as_str() {
                Some(text) => serde_json::from_str(text)?,
                None => BTreeMap::new(),
            };
            let counted = status["allocatedIPCount"].as_u64() == Some(shown.len() as u64);
            let found = accept(&shown).filter(|_| counted);
            Ok(found.map_or_else(|| Poll::Pending(format!("it shows {status}")), Poll::Ready))
        })
    }

    /// Waits until both pools show exactly `count` addresses.
    pub(crate) fn in_use(&self, count: usize) -> Result<()> {
        for pool in [&self.pool4, &self.pool6] {
            self.pool_shows(pool, |shown| (shown.len() == count).then_some(()))?;
        }
        Ok(())
    }

    /// Returns the addresses that are held for a pod, without the resting ones.
    pub(crate) fn held_by(&self, pod: &str) -> Result<BTreeSet<String>> {
        let endpoint = format!("{}/{pod}", self.name);
        let claims = self.claims()?.into_iter().map(|mut claim| claim["spec"].take());
        let held = claims.filter(|claim| claim["endpoint"] == endpoint.as_str() && claim["state"] == "held");
        held.map(|claim| text(&claim, "/address").map(str::to_owned)).collect()
    }

    /// Waits until a pod's endpoint is gone and no address is held for it.
    pub(crate) fn freed(&self, pod: &str, seconds: u64) -> Result<()> {
        self.wait(&format!("the addresses of {}/{pod} to be free", self.name), seconds, || {
            let (endpoint, held) = (self.endpoint(pod)?, self.held_by(pod)?);
            let free = endpoint.is_none() && held.is_empty();
            let left =
                || format!("claims {held:?}, endpoint {:?}", endpoint.map(|mut it| it["status"]["current"].take()));
            Ok(if free { Poll::Ready(()) } else { Poll::Pending(left()) })
        })
    }

    /// Waits until no container holds the addresses that `holder` held, and they are reserved for the pod; returns the
    /// endpoint.
    pub(crate) fn reserved(&self, pod: &str, holder: &Holder, seconds: u64) -> Result<Value> {
        self.wait(&format!("the addresses of {}/{pod} to be reserved", self.name), seconds, || {
            let endpoint = self.endpoint(pod)?.with_context(|| format!("the endpoint {pod} went"))?;
            self.keeps(pod, holder, &endpoint)?;
            let current = &endpoint["status"]["current"];
            let vacant = current["state"] == "Reserved" && current["containerID"].is_null();
            Ok(if vacant { Poll::Ready(endpoint) } else { Poll::Pending(current.to_string()) })
        })
    }

    /// An error unless the endpoint lists the addresses that `holder` has, and they are held for it.
    pub(crate) fn keeps(&self, pod: &str, holder: &Holder, endpoint: &Value) -> Result<()> {
        let ip = &endpoint["status"]["current"]["ips"][0];
        same("the endpoint's addresses", &[&ip["ipv4"], &ip["ipv6"]], &[&json!(holder.ipv4), &json!(holder.ipv6)])?;
        same("the claimed addresses", &self.held_by(pod)?, &holder.addresses().map(str::to_owned).into())
    }

    /// Waits until a pod of `app` other than `other` is Ready; returns its name.
    pub(crate) fn ready_pod(&self, app: &str, other: &str) -> Result<String> {
        self.wait(&format!("a pod of {app}"), LIMIT, || {
            let pods = self.pods(app)?;
            let pod = pods.iter().find(|pod| is_ready(pod) && pod["metadata"]["name"] != other);
            Ok(match pod {
                Some(pod) => Poll::Ready(text(pod, "/metadata/name")?.to_owned()),
                None => Poll::Pending("none is Ready".into()),
            })
        })
    }

    pub(crate) fn scale(&self, workload: &str, replicas: u32) -> Result<()> {
        self.kubectl(&["scale", workload, &format!("--replicas={replicas}")]).map(drop)
    }

    /// Waits until an event of the pod has all of `words`; returns its text.
    pub(crate) fn event(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.wait(&format!("an event of {}/{pod} with {words:?}", self.name), LIMIT, || {
            let events = self.world.api.list(&format!("/api/v1/namespaces/{}/events", self.name), "")?;
            let of_pod = events.iter().filter(|event| event["involvedObject"]["name"] == pod);
            let texts: Vec<&str> = of_pod.filter_map(|event| event["message"].as_str()).collect();
            let found = texts.iter().find(|text| words.iter().all(|word| text.contains(word)));
            Ok(found.map_or_else(|| Poll::Pending(format!("{texts:?}")), |text| Poll::Ready((*text).to_owned())))
        })
    }

    /// Waits until an event of an object has this reason and all of `words` in its text.
    pub(crate) fn reported(&self, kind: &str, name: &str, reason: &str, words: &[&str]) -> Result<()> {
        self.wait(&format!("an event {reason} of {kind} {}/{name} with {words:?}", self.name), 10, || {
            let events = self.world.api.list(&format!("/api/v1/namespaces/{}/events", self.name), "")?;
            let about = |event: &&Value| {
                let object = &event["involvedObject"];
                object["kind"] == kind && object["name"] == name && event["reason"] == reason
            };
            let texts: Vec<&str> = events.iter().filter(about).filter_map(|event| event["message"].as_str()).collect();
            let found = texts.iter().any(|text| words.iter().all(|word| text.contains(word)));
            Ok(if found { Poll::Ready(()) } else { Poll::Pending(format!("{texts:?}")) })
        })
    }

    /// Removes the namespace; waits until its pods and addresses are gone and, after an exclusive test, until the laboratory
    /// is whole again.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.done = true;
        self.take_down()
    }

    fn take_down(&self) -> Result<()> {
        let removed = self.remove();
        if self.guard.is_exclusive() {
            whole::wait(self.world).inspect_err(|error| {
                self.guard.declare_broken(format!("after the test of {}: {error:#}", self.name));
            })?;
        }
        removed
    }

    fn remove(&self) -> Result<()> {
        let kinds = "statefulsets,deployments,jobs,pods";
        self.kubectl(&["delete", kinds, "--all", "--wait=false"])?;
        let gone = self.wait(&format!("the addresses of {} to be free", self.name), 30, || {
            let endpoints: Vec<_> = self.endpoints()?.iter().map(|it| it["metadata"]["name"].clone()).collect();
            let held = |claim: &&Value| claim["spec"]["state"] == "held";
            let claims: Vec<_> = self.claims()?.iter().filter(held).map(|it| it["spec"].clone()).collect();
            let left = format!("endpoints {endpoints:?}, claims {claims:?}");
            Ok(if endpoints.is_empty() && claims.is_empty() { Poll::Ready(()) } else { Poll::Pending(left) })
        });
        let gone = gone.and_then(|()| {
            self.wait(&format!("the pods of {} to be gone", self.name), LIMIT, || {
                let left: Vec<_> = self.all_pods()?.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
                Ok(if left.is_empty() { Poll::Ready(()) } else { Poll::Pending(format!("{left:?} are there")) })
            })
        });
        let label = format!("{LABEL}={}", self.name);
        let kinds = "namespaces,spiderippools,spiderreservedips";
        gone.and(self.world.cluster.run(&["delete", kinds, "-l", &label, "--wait=false"]).map(drop))
    }

    /// Prints what shows the reason of a failure.
    fn describe(&self) {
        for arguments in [
            &["get", "pods,se", "-o", "wide"][..],
            &[
                "get",
                "events",
                "--sort-by=.lastTimestamp",
                "-o",
                "custom-columns=AT:.lastTimestamp,OF:.involvedObject.name,WHAT:.message",
            ],
        ] {
            eprintln!("{}", self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}")));
        }
        crate::agents::show_logs(self.world, &self.name);
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.describe();
        if let Err(error) = self.take_down() {
            eprintln!("after the failure: {error:#}");
        }
    }
}

impl Holder {
    fn of(endpoint: &Value) -> Option<Self> {
        let current = &endpoint["status"]["current"];
        let ip = &current["ips"][0];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some(Self {
            ipv4: text(&ip["ipv4"]),
            ipv6: text(&ip["ipv6"]),
            uid: text(&current["uid"]),
            container: current["containerID"].as_str()?.to_owned(),
            node: text(&current["node"]),
            generation: current["generation"].as_u64()?,
        })
    }

    /// Returns the addresses without their prefix lengths.
    pub(crate) fn addresses(&self) -> [&str; 2] {
        [&self.ipv4, &self.ipv6].map(|text| text.split('/').next().unwrap_or_default())
    }

    /// An error unless `later` has the same addresses in another container.
    pub(crate) fn sticks(&self, later: &Self) -> Result<()> {
        ensure!((&self.ipv4, &self.ipv6) == (&later.ipv4, &later.ipv6), "the addresses changed: {self:?} → {later:?}");
        ensure!(self.container != later.container, "the container is the same: {later:?}");
        ensure!(self.generation < later.generation, "the generation did not grow: {self:?} → {later:?}");
        Ok(())
    }
}

/// Returns true if a pod is Ready and is not being deleted.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True") && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Returns a string field of an object. An error if it is missing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> Result<&'a str> {
    object.pointer(pointer).and_then(Value::as_str).ok_or_else(|| anyhow!("{pointer} is missing in {object}"))
}

/// An error unless two things are equal.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, should: &T) -> Result<()> {
    if is != should {
        bail!("{what}: is {is:?}, should be {should:?}");
    }
    Ok(())
}
