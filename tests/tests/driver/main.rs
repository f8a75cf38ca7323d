//! The node's driver on the real kernel: links and guard are real, endpoints and the process table are in memory.
//!
//! Each event of the binding machine comes from the kernel once, and each of its actions is carried out there once. The
//! same pairs without a kernel are in the agent's `node::tests`.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_agent::node::{
    Node, backend,
    fakes::{FakeNode, NODE_NAME},
    handle_events,
};
use holdfast_api::event_recorder::{EventQueue, EventRecorder};
use holdfast_cni::{Invocation, Plugin};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, PodName},
};
use holdfast_guard::{BindingState, Config, Datapath, Events, GuardMetrics};
use holdfast_net::{HostLink, Network};
use holdfast_tests::{
    frames,
    guarded::Bpffs,
    netns::{Host, Lan},
    packet_socket::PacketSocket,
};
use serde_json::json;

/// The time that anything may take that a test waits for.
const LIMIT: Duration = Duration::from_secs(20);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 181);
/// Another address of the pool.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 99);
const UID: &str = "uid-1";

/// A LAN with a machine and a node that runs the agent's driver.
struct World {
    // Dropped first: the pins go before the interfaces do.
    bpffs: Bpffs,
    fakes: FakeNode,
    network: Network,
    guard: Datapath,
    events: Option<Events>,
    host: Host,
    machine: Host,
    lan: Lan,
}

/// The driver, its events, and the Kubernetes events that it recorded.
struct Running {
    node: Node,
    recorded: EventQueue,
    tasks: tokio::task::JoinSet<anyhow::Result<()>>,
}

fn pod() -> PodName {
    PodName::new("default", "web-0")
}

fn container(id: &str) -> ContainerId {
    id.parse().expect("a container ID")
}

fn open(host: &Host, bpffs: &Bpffs) -> Result<(Datapath, Events)> {
    let object = std::env::var_os("HOLDFAST_BPF_OBJECT").map(Into::into);
    let config = Config { object, ..Config::new(bpffs.path()) };
    host.run(|| Datapath::open(&config))?.context("opening the guard")
}

impl World {
    fn new() -> Result<Self> {
        let lan = Lan::new()?;
        let machine = lan.host("host", &["172.22.0.2/24"])?;
        let host = lan.host("node", &["172.22.0.10/24"])?;
        let bpffs = Bpffs::new();
        let network = host.run(Network::open)??;
        host.block_on(async || Ok(network.prepare_node().await?))?;
        let (guard, events) = open(&host, &bpffs)?;
        guard.set_pools(&[("172.22.0.0/24".parse()?, 1)])?;
        let fakes = FakeNode::new();
        fakes.records.put_pod(&pod(), UID, ADDRESS.into());
        Ok(Self { bpffs, fakes, network, guard, events: Some(events), host, machine, lan })
    }

    /// Ends the agent and opens the guard again, as another one does.
    fn restart(&mut self) -> Result<()> {
        self.events = None;
        let (guard, events) = open(&self.host, &self.bpffs)?;
        (self.guard, self.events) = (guard, Some(events));
        Ok(())
    }

    /// Runs the driver for as long as `work` takes.
    fn run<T: Send>(&mut self, work: impl AsyncFnOnce(&World, &mut Running) -> Result<T> + Send) -> Result<T> {
        let events = self.events.take().context("the events are taken once")?;
        let world = &*self;
        world.host.block_on(async || {
            let backends = backend::Backends {
                links: Arc::new(world.network.clone()),
                guard: Arc::new(world.guard.clone()),
                namespaces: Arc::new(backend::KernelNamespaces),
                ..world.fakes.backends()
            };
            let (recorder, queue) = EventRecorder::new(|| {});
            let node = Node::new(backends, GuardMode::Enforce, GuardMetrics::default(), recorder)?;
            let mut tasks = tokio::task::JoinSet::new();
            let (driver, reconciler) = (node.driver.clone(), node.reconciler.clone());
            tasks.spawn(handle_events(events, driver, reconciler, GuardMetrics::default()));
            let mut running = Running { node, recorded: queue, tasks };
            let outcome = work(world, &mut running).await;
            running.tasks.abort_all();
            running.node.drain().await;
            outcome
        })
    }

    fn holder(&self) -> Option<(String, u64)> {
        let (container, generation) = self.fakes.records.holder(&pod())?;
        Some((container.to_string(), generation.0))
    }

    fn state_of(&self, link: IfIndex) -> Result<Option<BindingState>> {
        let bindings = self.guard.bindings()?;
        let of_link = |binding: &&holdfast_guard::Binding| {
            binding.entry.link == link && binding.entry.address == IpAddr::from(ADDRESS)
        };
        Ok(bindings.iter().find(of_link).map(|binding| binding.state))
    }

    async fn link_of(&self, id: &str) -> Result<HostLink> {
        let links = self.network.links().await?;
        links.into_iter().find(|link| link.container == container(id)).context("the container has a link")
    }

    /// Makes the pod's endpoint name another container, on this node or another.
    fn name_holder(&self, id: &str, node: &str) -> Result<()> {
        let mut endpoint = self.fakes.records.endpoint(&pod()).context("the pod has an endpoint")?;
        let current = &mut endpoint.status.as_mut().context("it has a status")?.current;
        current.container_id = Some(container(id));
        current.generation = Generation(5);
        node.clone_into(&mut current.node);
        self.fakes.records.put_endpoint(&pod(), Some(endpoint));
        Ok(())
    }
}

impl Running {
    /// Gives a container of the pod its interface. Its sandbox's process is `pid`.
    async fn add(&self, world: &World, id: &str, netns: &Path, plugin: Plugin, pid: u32) -> Result<()> {
        world.fakes.processes.start(pid, &container(id), UID);
        let deadline = tokio::time::Instant::now() + LIMIT;
        let added = self.node.attachments.add(&invocation(id, netns, plugin), deadline).await;
        added.map(drop).map_err(|error| anyhow::anyhow!("ADD of {id}: {}", error.msg))
    }

    /// Waits for a Kubernetes event with this reason.
    async fn reported(&mut self, reason: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.recorded.try_next() {
                Some(event) if event.reason == reason => return Ok(event.note),
                Some(_) => {}
                None => {
                    ensure!(Instant::now() < deadline, "no event {reason} within {LIMIT:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}

fn invocation(id: &str, netns: &Path, plugin: Plugin) -> Invocation {
    Invocation {
        container_id: id.into(),
        netns: netns.to_str().map(str::to_owned),
        ifname: Some("eth0".into()),
        args: Some("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0".into()),
        path: None,
        plugin,
        config: json!({"cniVersion": "1.0.0", "name": "lan", "type": "holdfast"}),
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !is_so().await? {
        ensure!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Sends a packet of the pod's own address.
fn send_own(socket: &PacketSocket) -> Result<()> {
    socket.send(&frames::ipv4(socket.mac(), ADDRESS, "mine"))
}

#[test]
fn violations_are_reported_and_a_rightful_holder_keeps_its_address() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, 1001).await?;
        let (link, socket) = (world.link_of("c1").await?, PacketSocket::open(&netns, "eth0")?);
        socket.send(&frames::ipv4(socket.mac(), FOREIGN, "not mine"))?;
        let note = running.reported("SourceViolation").await?;
        ensure!(note.starts_with(&FOREIGN.to_string()) && note.contains("container c1"), "{note}");
        let other = [0x06; 6];
        socket.send(&frames::ipv4(other, ADDRESS, "another MAC"))?;
        let note = running.reported("SourceViolation").await?;
        ensure!(note.contains("MAC 06:06:06:06:06:06"), "{note}");
        ensure!(world.state_of(link.index)? == Some(BindingState::Current));
        world.machine.ping(&ADDRESS.to_string())
    })
}

#[test]
fn an_older_sandbox_is_fenced_and_reported() -> Result<()> {
    let mut world = World::new()?;
    let (old, new) = (Host::new("old")?, Host::new("new")?);
    world.run(async |world, running| {
        running.add(world, "c1", &old.path(), Plugin::Holdfast, 1001).await?;
        running.add(world, "c2", &new.path(), Plugin::Holdfast, 1002).await?;
        let (old_link, new_link) = (world.link_of("c1").await?, world.link_of("c2").await?);
        send_own(&PacketSocket::open(&old, "eth0")?)?;
        let note = running.reported("StaleContainerFenced").await?;
        ensure!(note.contains("container c1") && note.contains("its holder is container c2"), "{note}");
        ensure!(world.state_of(old_link.index)? == Some(BindingState::Stale));
        ensure!(world.state_of(new_link.index)? == Some(BindingState::Current));
        ensure!(world.holder() == Some(("c2".into(), 2)));
        world.machine.ping(&ADDRESS.to_string())
    })
}

#[test]
fn a_container_whose_pod_moved_on_is_withdrawn() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, 1001).await?;
        let link = world.link_of("c1").await?;
        ensure!(link.addresses == [IpAddr::from(ADDRESS)]);
        world.name_holder("c9", "node2")?;
        let socket = PacketSocket::open(&netns, "eth0")?;
        socket.send(&frames::ipv4(socket.mac(), FOREIGN, "not mine"))?;
        until("nothing leads to the link", async || Ok(world.link_of("c1").await?.addresses.is_empty())).await?;
        ensure!(world.state_of(link.index)? == Some(BindingState::Stale));
        ensure!(world.machine.ping(&ADDRESS.to_string()).is_err(), "nobody answers for the address any more");
        Ok(())
    })
}

#[test]
fn a_live_sandbox_of_a_record_that_lags_behind_is_rebound() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, 1001).await?;
        let link = world.link_of("c1").await?;
        world.name_holder("c0", NODE_NAME)?;
        world.guard.mark_stale(link.index, ADDRESS.into())?;
        send_own(&PacketSocket::open(&netns, "eth0")?)?;
        running.reported("AddressRebound").await?;
        ensure!(world.holder() == Some(("c1".into(), 6)));
        until("the guard has the new generation", async || {
            Ok(world
                .guard
                .bindings()?
                .iter()
                .any(|binding| binding.state == BindingState::Current && binding.entry.generation == Generation(6)))
        })
        .await?;
        world.machine.ping(&ADDRESS.to_string())
    })
}

#[test]
fn a_dead_sandbox_is_collected() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    let mut process = Command::new("sleep").arg("600").spawn()?;
    let pid = process.id();
    let outcome = world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, pid).await?;
        let link = world.link_of("c1").await?;
        until("its process is watched", async || Ok(world.guard.sandboxes()?.contains(&(pid, container("c1").tag()))))
            .await?;
        world.fakes.processes.end(pid);
        process.kill()?;
        until("the guard drops what it sends", async || Ok(world.state_of(link.index)? == Some(BindingState::Stale)))
            .await?;
        until("the record has no holder", async || Ok(world.holder().is_none())).await?;
        until("nothing leads to the link", async || Ok(world.link_of("c1").await?.addresses.is_empty())).await?;
        until("its process is forgotten", async || Ok(world.guard.sandboxes()?.is_empty())).await
    });
    process.kill()?;
    process.wait()?;
    outcome
}

#[test]
fn another_machines_claim_is_reported() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, 1001).await?;
        let socket = PacketSocket::open(&world.machine, "eth0")?;
        socket.send(&frames::arp(socket.mac(), socket.mac(), ADDRESS))?;
        let note = running.reported("AddressConflict").await?;
        ensure!(note.contains("its holder is container c1"), "{note}");
        Ok(())
    })
}

#[test]
fn an_address_whose_lease_has_run_out_is_reported() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, 1001).await?;
        let link = world.link_of("c1").await?;
        world.guard.set_lease(1, 1)?;
        world.guard.lease(link.index, ADDRESS.into(), Some(1))?;
        send_own(&PacketSocket::open(&netns, "eth0")?)?;
        running.reported("StaleContainerFenced").await.map(drop)
    })
}

#[test]
fn a_restarted_agent_adopts_links_and_the_guards_decisions() -> Result<()> {
    let mut world = World::new()?;
    let (old, new) = (Host::new("old")?, Host::new("new")?);
    let (old_link, new_link) = world.run(async |world, running| {
        running.add(world, "c1", &old.path(), Plugin::Holdfast, 1001).await?;
        running.add(world, "c2", &new.path(), Plugin::Holdfast, 1002).await?;
        Ok((world.link_of("c1").await?, world.link_of("c2").await?))
    })?;
    // The new agent finds no guard on the link of the holder, and the older link as it was left.
    world.host.run(|| world.guard.detach_pod_link(new_link.index, &new_link.name))??;
    world.restart()?;
    world.run(async |world, running| {
        ensure!(world.state_of(old_link.index)? == Some(BindingState::Stale));
        ensure!(world.state_of(new_link.index)?.is_none());
        running.tasks.spawn(running.node.reconciler.clone().run());
        until("the holder's link is adopted", async || {
            Ok(world.state_of(new_link.index)? == Some(BindingState::Current))
        })
        .await?;
        ensure!(world.state_of(old_link.index)? == Some(BindingState::Stale));
        world.machine.ping(&ADDRESS.to_string())
    })
}

#[test]
fn del_leaves_neither_link_nor_guard() -> Result<()> {
    let mut world = World::new()?;
    let netns = Host::new("pod")?;
    world.run(async |world, running| {
        running.add(world, "c1", &netns.path(), Plugin::Holdfast, 1001).await?;
        let deadline = tokio::time::Instant::now() + LIMIT;
        let request = invocation("c1", &netns.path(), Plugin::Holdfast);
        running.node.attachments.del(&request, deadline).await.map_err(|error| anyhow::anyhow!(error.msg))?;
        ensure!(world.holder().is_none());
        until("the guard is off", async || Ok(world.guard.bindings()?.is_empty())).await?;
        ensure!(world.network.links().await?.is_empty());
        ensure!(world.machine.ping(&ADDRESS.to_string()).is_err(), "nobody answers for the address any more");
        Ok(())
    })
}

#[test]
fn a_delegates_interface_is_guarded_and_older_sandboxes_are_silenced() -> Result<()> {
    let mut world = World::new()?;
    let (old, new) = (Host::new("old")?, Host::new("new")?);
    world.lan.plug(&new, "eth0", &[])?;
    world.run(async |world, running| {
        running.add(world, "c1", &old.path(), Plugin::Holdfast, 1001).await?;
        let old_link = world.link_of("c1").await?;
        running.add(world, "c2", &new.path(), Plugin::Spiderpool, 1002).await?;
        ensure!(world.state_of(old_link.index)? == Some(BindingState::Stale));
        let inside = world.guard.links()?.into_iter().find(|link| link.inside).context("it is guarded")?;
        ensure!(world.state_of(inside.link)? == Some(BindingState::Current));
        let socket = PacketSocket::open(&new, "eth0")?;
        socket.send(&frames::ipv4(socket.mac(), FOREIGN, "not mine"))?;
        let note = running.reported("SourceViolation").await?;
        ensure!(note.contains("container c2"), "{note}");
        Ok(())
    })
}
