//! A node in memory with one pod, and what happens to it.

use std::{net::IpAddr, path::Path, time::Duration};

use holdfast_api::event_recorder::{EventQueue, EventRecorder, RecordedEvent};
use holdfast_cni::{AddResult, CniError, Invocation, Plugin};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, IfName, PodName},
    mac::Mac,
};
use holdfast_guard::{BindingState, EventKind, GuardEvent, GuardMetrics, Via};
use holdfast_net::LinkSpec;
use serde_json::json;
use tokio::time::Instant;

use crate::node::{Node, backend::Processes, fakes::FakeNode};

/// The deadline of a verb.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// The index of the first link that is made.
pub(super) const FIRST: IfIndex = IfIndex(11);
/// The index of the second link that is made.
pub(super) const SECOND: IfIndex = IfIndex(12);
/// The number of the first link inside a pod.
pub(super) const INSIDE: IfIndex = IfIndex(0x8000_0000);
/// The UID of the pod.
pub(super) const UID: &str = "uid-1";
/// The network namespace of every container.
pub(super) const NETNS: &str = "/run/netns/a";

/// A node with the pod `web-0` of a StatefulSet, whose address is 10.0.0.1.
pub(super) struct World {
    pub(super) fakes: FakeNode,
    pub(super) node: Node,
    pub(super) events: EventQueue,
}

pub(super) fn pod() -> PodName {
    PodName::new("default", "web-0")
}

pub(super) fn address() -> IpAddr {
    [10, 0, 0, 1].into()
}

pub(super) fn container(id: &str) -> ContainerId {
    id.parse().unwrap()
}

pub(super) fn eth0() -> IfName {
    "eth0".parse().unwrap()
}

/// The link that an earlier agent made for a container.
pub(super) fn spec(id: &str) -> LinkSpec {
    LinkSpec { container: container(id), pod: pod(), netns: NETNS.into(), ifname: eth0(), mtu: None }
}

/// A request of the runtime for an interface of a container.
pub(super) fn invocation(id: &str, interface: &str, plugin: Plugin) -> Invocation {
    Invocation {
        container_id: id.into(),
        netns: Some(NETNS.into()),
        ifname: Some(interface.into()),
        args: Some("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0".into()),
        path: None,
        plugin,
        config: json!({"cniVersion": "1.0.0", "name": "lan", "type": "holdfast"}),
    }
}

/// An event of the guard on a link.
pub(super) fn event(kind: EventKind, link: IfIndex) -> GuardEvent {
    GuardEvent {
        kind,
        link,
        address: address(),
        mac: Mac([6; 6]),
        generation: Generation(1),
        container_tag: 0,
        timestamp_ns: 0,
        dropped: true,
        via: Via::Ip,
        pool: 0,
        process: 0,
        holder: None,
    }
}

/// The end of a container's process.
pub(super) fn exit(id: &str, pid: u32) -> GuardEvent {
    GuardEvent { container_tag: container(id).tag(), process: pid, ..event(EventKind::SandboxExit, IfIndex(0)) }
}

impl World {
    pub(super) fn new() -> Self {
        let fakes = FakeNode::new();
        fakes.records.put_pod(&pod(), UID, address());
        let (node, events) = start(&fakes);
        Self { fakes, node, events }
    }

    /// Ends the agent and starts another over what it leaves.
    pub(super) fn restart(&mut self) {
        (self.node, self.events) = start(&self.fakes);
        self.fakes.journal.take();
    }

    /// A node whose pod has been given its interface, in a sandbox that runs.
    pub(super) async fn with_pod() -> Self {
        let world = Self::new();
        world.start("c1", 101).await;
        world
    }

    /// Starts a sandbox of the pod and gives it its interface.
    pub(super) async fn start(&self, id: &str, pid: u32) {
        self.add(id).await.unwrap();
        self.fakes.processes.start(pid, &container(id), UID);
        self.settle().await;
        self.fakes.journal.take();
    }

    /// As [`Self::start`], where another plugin makes the interface.
    pub(super) async fn start_delegated(&self, id: &str, pid: u32) {
        self.fakes.namespaces.put(Path::new(NETNS), &eth0(), Mac([4; 6]));
        self.fakes.namespaces.put(&self.fakes.processes.netns(pid), &eth0(), Mac([4; 6]));
        self.add_with(id, "eth0", Plugin::Spiderpool).await.unwrap();
        self.fakes.processes.start(pid, &container(id), UID);
        self.settle().await;
        self.fakes.journal.take();
    }

    pub(super) async fn add(&self, id: &str) -> Result<AddResult, CniError> {
        self.add_with(id, "eth0", Plugin::Holdfast).await
    }

    pub(super) async fn add_with(&self, id: &str, interface: &str, plugin: Plugin) -> Result<AddResult, CniError> {
        let invocation = invocation(id, interface, plugin);
        self.node.attachments.add(&invocation, Instant::now() + DEADLINE).await
    }

    pub(super) async fn del(&self, id: &str) -> Result<(), CniError> {
        self.del_with(id, "eth0", Plugin::Holdfast).await
    }

    pub(super) async fn del_with(&self, id: &str, interface: &str, plugin: Plugin) -> Result<(), CniError> {
        let invocation = invocation(id, interface, plugin);
        self.node.attachments.del(&invocation, Instant::now() + DEADLINE).await
    }

    /// Hands an event to the driver and waits for all that comes of it.
    pub(super) async fn see(&self, event: GuardEvent) {
        self.node.driver.handle(event).await;
    }

    /// Waits until all that goes on in the background has come to its end.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(120)).await;
    }

    /// Returns what was done since the last time.
    pub(super) fn done(&self) -> Vec<String> {
        self.fakes.journal.take()
    }

    /// Returns the Kubernetes events since the last time.
    pub(super) fn recorded(&mut self) -> Vec<RecordedEvent> {
        std::iter::from_fn(|| self.events.try_next()).collect()
    }

    /// Returns the reasons of the Kubernetes events since the last time.
    pub(super) fn reasons(&mut self) -> Vec<&'static str> {
        self.recorded().into_iter().map(|event| event.reason).collect()
    }

    /// Returns what the guard lets a link do with the pod's address.
    pub(super) fn binding(&self, link: IfIndex) -> Option<BindingState> {
        self.fakes.guard.state_of(link, address())
    }

    /// Returns the container that the pod's record names, and its generation.
    pub(super) fn holder(&self) -> Option<(String, u64)> {
        let (container, generation) = self.fakes.records.holder(&pod())?;
        Some((container.to_string(), generation.0))
    }
}

fn start(fakes: &FakeNode) -> (Node, EventQueue) {
    let (recorder, events) = EventRecorder::new(|| {});
    let node = Node::new(fakes.backends(), GuardMode::Enforce, GuardMetrics::default(), recorder).unwrap();
    (node, events)
}
