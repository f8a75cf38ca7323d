//! Pods to measure: a namespace with pools of its own, and StatefulSets in it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use holdfast_api::endpoint::{EndpointIp, SpiderEndpoint};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use xtask::progress::Poll;

use crate::world::World;

pub(crate) const NAMESPACE: &str = "bench";
/// Managed addresses that no pod ever gets: 172.22.128.0/17, all but the first and the last.
pub(crate) const NOBODYS: [u8; 4] = [172, 22, 128, 0];

/// The namespace `bench`, with what is in it.
pub(crate) struct Workload<'w> {
    pub(crate) world: &'w World,
}

/// The holder of a pod's addresses.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A pod that the scheduler has given a node, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) pod: String,
    pub(crate) uid: String,
}

impl<'w> Workload<'w> {
    /// Makes an empty namespace, after removing that of an earlier run.
    pub(crate) fn new(world: &'w World) -> Result<Self> {
        world.cluster.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])?;
        let pool = |name: &str, subnet: &str, gateway: &str, range: &str| {
            json!({
                "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": name},
                "spec": {"subnet": subnet, "ips": [range], "gateway": gateway},
            })
        };
        let items = json!([
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "annotations": {
                "ipam.spidernet.io/default-ipv4-ippool": json!(["bench-v4"]).to_string(),
                "ipam.spidernet.io/default-ipv6-ippool": json!(["bench-v6"]).to_string(),
            }}},
            pool("bench-v4", "172.22.0.0/16", "172.22.0.1", "172.22.64.1-172.22.67.254"),
            pool("bench-v6", "fd00:22::/64", "fd00:22::1", "fd00:22::64:1-fd00:22::64:3fe"),
            pool("bench-nobodys", "172.22.0.0/16", "172.22.0.1", "172.22.128.1-172.22.255.254"),
        ]);
        world.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        Ok(Self { world })
    }

    /// Makes a StatefulSet whose pods start all at once, on one node if that is named, and tolerate every taint.
    pub(crate) fn stateful_set(&self, name: &str, replicas: u32, node: Option<&str>) -> Result<()> {
        let selector = node.map_or(json!({}), |node| json!({"kubernetes.io/hostname": node}));
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "nodeSelector": selector,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", "trap exit TERM; sleep 86400 & wait"],
                    }],
                }},
            },
        });
        self.world.cluster.apply(&set.to_string()).map(drop)
    }

    /// Returns the endpoints of the namespace.
    pub(crate) fn endpoints(&self) -> Api<SpiderEndpoint> {
        Api::namespaced(self.world.client.clone(), NAMESPACE)
    }

    /// Waits until all pods of a set are ready; returns their holders.
    pub(crate) fn ready(&self, set: &str, replicas: u32) -> Result<Vec<Holder>> {
        self.world.wait(&format!("the pods of {set}"), || {
            let ready = self.pods(set)?.iter().filter(|pod| is_ready(pod)).count();
            if ready < replicas as usize {
                return Ok(Poll::Pending(format!("{ready} of {replicas} are ready")));
            }
            let endpoints = self.world.block_on(self.endpoints().list(&ListParams::default()))?;
            let holders: Vec<_> = endpoints.iter().filter_map(Holder::of).collect();
            let all = holders.len() == replicas as usize;
            Ok(if all { Poll::Ready(holders) } else { Poll::Pending(format!("{} are held", holders.len())) })
        })
    }

    /// Waits until all pods of a set have a node.
    pub(crate) fn assigned(&self, set: &str, replicas: u32) -> Result<Vec<Assigned>> {
        self.world.wait(&format!("the pods of {set}"), || {
            let assigned = |pod: &Pod| {
                pod.spec.as_ref()?.node_name.as_ref()?;
                Some(Assigned { pod: pod.name_any(), uid: pod.uid()? })
            };
            let assigned: Vec<_> = self.pods(set)?.iter().filter_map(assigned).collect();
            let all = assigned.len() == replicas as usize;
            Ok(if all { Poll::Ready(assigned) } else { Poll::Pending(format!("{} have a node", assigned.len())) })
        })
    }

    fn pods(&self, set: &str) -> Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.world.client.clone(), NAMESPACE);
        let of_set = ListParams::default().labels(&format!("app={set}"));
        Ok(self.world.block_on(pods.list(&of_set))?.items)
    }

    /// Takes a set away with its pods, also those that no kubelet ends.
    pub(crate) fn remove(&self, set: &str) -> Result<()> {
        let cluster = &self.world.cluster;
        cluster.run(&["-n", NAMESPACE, "delete", "statefulset", set, "--cascade=orphan"])?;
        let now = ["--all", "--force", "--grace-period=0", "--wait=false"];
        cluster.run(&[&["-n", NAMESPACE, "delete", "pods"], &now[..]].concat()).map(drop)
    }

    /// Patches a record, as another writer would.
    pub(crate) async fn patch(&self, pod: &str, change: &Value) -> Result<()> {
        let patch = kube::api::Patch::Merge(change);
        self.endpoints()
            .patch(pod, &kube::api::PatchParams::default(), &patch)
            .await
            .with_context(|| pod.to_owned())?;
        Ok(())
    }
}

impl Holder {
    fn of(endpoint: &SpiderEndpoint) -> Option<Self> {
        let current = &endpoint.status.as_ref()?.current;
        Some(Self {
            pod: endpoint.name_any(),
            container: current.container_id.as_ref()?.as_str().to_owned(),
            node: current.node.clone(),
            addresses: current.ips.iter().flat_map(EndpointIp::networks).map(|net| net.addr()).collect(),
        })
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
