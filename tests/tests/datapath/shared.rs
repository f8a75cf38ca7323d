//! Pods that share the node's link (macvlan): what goes past the guard inside them is met again outside.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_abi::Counter;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{Generation, IfIndex},
    mac,
};
use holdfast_guard::{BindingEntry, Datapath, EventKind, LinkInfo};
use holdfast_tests::{
    frames::{self, Mac},
    guarded::{Node, counted},
    netns::{Host, within},
    packet_socket::{PacketSocket, has},
};

const LIMIT: Duration = Duration::from_secs(5);
const MINE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const NEIGHBOURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);
const UNBOUND: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 4);
const UNMANAGED: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 9);
const MINE6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const NEIGHBOURS6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 3);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// A pod with a macvlan interface.
struct Pod {
    host: Host,
    socket: PacketSocket,
    /// The same past the guard inside.
    bypass: PacketSocket,
    link: IfIndex,
}

impl Pod {
    fn bind(&self, guard: &Datapath, address: impl Into<IpAddr>, generation: u64) -> Result<()> {
        let (address, generation) = (address.into(), Generation(generation));
        let (link, mac, container_tag) = (self.link, self.socket.mac(), u64::from(self.link.0));
        Ok(guard.bind(&BindingEntry { link, address, generation, container_tag, mac: mac::Mac(mac) })?)
    }
}

/// A node with a second way to the LAN, `up0`, and what is heard at its end.
struct Scene {
    node: Node,
    uplink: IfIndex,
    lan: PacketSocket,
}

impl Scene {
    fn new(node: Node) -> Result<Self> {
        let lan = node.lan_host().path();
        let lan = lan.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        node.host.ip(&format!("link add up0 type veth peer name wan0 netns {lan}"))?;
        node.host.ip("link set up0 up")?;
        node.lan_host().ip("link set wan0 up")?;
        let lan = PacketSocket::open(node.lan_host(), "wan0")?;
        let uplink = node.host.run(|| nix::net::if_::if_nametoindex("up0"))?.map(IfIndex)?;
        Ok(Self { node, uplink, lan })
    }

    fn pod(&self, guard: &Datapath, name: &str) -> Result<Pod> {
        let host = Host::new(name)?;
        let path = host.path();
        let namespace = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        self.node.host.ip(&format!("link add link up0 name eth0 netns {namespace} type macvlan mode bridge"))?;
        host.ip("link set eth0 up")?;
        let (socket, bypass) = (PacketSocket::open(&host, "eth0")?, PacketSocket::open_bypassing(&host, "eth0")?);
        let link = self.attach(guard, &host, socket.mac())?;
        Ok(Pod { host, socket, bypass, link })
    }

    fn attach(&self, guard: &Datapath, host: &Host, mac: Mac) -> Result<IfIndex> {
        let netns = File::open(host.path())?;
        let info =
            LinkInfo { mac: mac::Mac(mac), container_tag: 1, generation: Generation(1), mode: GuardMode::Enforce };
        Ok(self.node.host.run(|| guard.attach_inside(netns.as_fd(), &"eth0".parse().expect("a name"), info))??)
    }

    fn share(&self, guard: &Datapath) -> Result<()> {
        Ok(self.node.host.run(|| guard.attach_shared_uplink(self.uplink, &"up0".parse().expect("a name")))??)
    }

    /// How many of the frames the LAN hears.
    fn hears(&self, socket: &PacketSocket, frames: &[Vec<u8>]) -> Result<usize> {
        for frame in frames {
            socket.send(frame)?;
        }
        socket.send(&frames::other(socket.mac(), "that was all"))?;
        let heard = self.lan.receive_until(|frame| has(frame, "that was all"))?;
        Ok(heard.iter().filter(|frame| frames.contains(frame)).count())
    }
}

/// Frames of every kind that use an address.
fn kinds(mac: Mac, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<Vec<u8>> {
    vec![
        frames::ipv4(mac, v4, "hello"),
        frames::arp(mac, mac, v4),
        frames::ipv6(mac, v6, "hello"),
        frames::advertisement(mac, LINK_LOCAL, v6, mac),
        frames::solicitation(mac, v6, LINK_LOCAL, mac),
        frames::redirect(mac, LINK_LOCAL, v6, LINK_LOCAL, Some(mac)),
        frames::redirect(mac, LINK_LOCAL, LINK_LOCAL, v6, None),
    ]
}

fn is_stopped_on_its_way(node: Node) -> Result<()> {
    let scene = Scene::new(node)?;
    let (mut guard, mut events) = scene.node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4), ("fd07::/64".parse()?, 6)])?;
    let (pod, neighbour) = (scene.pod(&guard, "a")?, scene.pod(&guard, "b")?);
    for (pod, addresses) in
        [(&pod, [IpAddr::from(MINE), MINE6.into()]), (&neighbour, [NEIGHBOURS.into(), NEIGHBOURS6.into()])]
    {
        for address in addresses {
            pod.bind(&guard, address, 1)?;
        }
    }
    let mac = pod.socket.mac();
    let lies = kinds(mac, NEIGHBOURS, NEIGHBOURS6);
    ensure!(scene.hears(&pod.socket, &lies)? == 0, "the guard inside stops them");
    ensure!(scene.hears(&pod.bypass, &lies)? == lies.len(), "past the guard inside they go");
    for _ in 0..2 {
        scene.share(&guard)?;
    }
    while events.wait_for(Duration::ZERO)?.is_some() {}

    let own = [kinds(mac, MINE, MINE6), vec![frames::ipv4(mac, UNMANAGED, "hello")]].concat();
    for restarts in [false, true] {
        if restarts {
            drop((guard, events));
            (guard, events) = scene.node.open()?;
        }
        let before = counted(&guard, Counter::DropForeign)?;
        ensure!(scene.hears(&pod.bypass, &lies)? == 0, "restarted: {restarts}");
        ensure!(scene.hears(&pod.bypass, &[frames::ipv4(mac, UNBOUND, "hello")])? == 0, "restarted: {restarts}");
        // Each of these broadcasts is met by the neighbour's ingress as well.
        let stopped = counted(&guard, Counter::DropForeign)? - before;
        ensure!(stopped == 2 * (lies.len() as u64 + 1), "restarted: {restarts}, {stopped}");
        for socket in [&pod.socket, &pod.bypass] {
            ensure!(scene.hears(socket, &own)? == own.len(), "restarted: {restarts}");
        }
        ensure!(counted(&guard, Counter::DropForeign)? - before == stopped);
    }
    // Who lied is not certain, only that somebody did.
    let seen = events.wait()?;
    ensure!(seen.kind == EventKind::Conflict && seen.dropped && seen.mac.0 == mac, "{seen:?}");
    ensure!(seen.link == scene.uplink || seen.link == neighbour.link, "{seen:?}");
    ensure!(seen.holder.is_some_and(|holder| holder.link == neighbour.link), "{seen:?}");

    // What is for the neighbour alone does not leave the node.
    let mut lie = frames::ipv4(mac, NEIGHBOURS, "hello");
    lie[..6].copy_from_slice(&neighbour.socket.mac());
    let before = counted(&guard, Counter::DropForeign)?;
    ensure!(scene.hears(&pod.bypass, &[lie])? == 0);
    ensure!(counted(&guard, Counter::DropForeign)? == before + 1, "{:?}", guard.counters()?);

    // An address that has moved on.
    neighbour.bind(&guard, MINE, 2)?;
    ensure!(scene.hears(&pod.bypass, &[frames::ipv4(mac, MINE, "hello"), frames::arp(mac, mac, MINE)])? == 0);
    ensure!(counted(&guard, Counter::DropStale)? == 4, "{:?}", guard.counters()?);
    let mac = neighbour.socket.mac();
    ensure!(scene.hears(&neighbour.bypass, &[frames::ipv4(mac, MINE, "hello"), frames::arp(mac, mac, MINE)])? == 2);

    // It ends with the last pod.
    for pod in [&pod, &neighbour] {
        ensure!(scene.hears(&pod.bypass, &[frames::ipv4(pod.socket.mac(), UNBOUND, "hello")])? == 0);
        scene.node.host.run(|| guard.detach_pod_link(pod.link, &"eth0".parse().expect("a name")))??;
    }
    within(LIMIT, || {
        let frame = frames::ipv4(neighbour.socket.mac(), UNBOUND, "hello");
        ensure!(scene.hears(&neighbour.bypass, &[frame])? == 1);
        Ok(())
    })?;
    ensure!(!scene.node.bpffs().join("links/up0:out").exists());
    ensure!(scene.node.bpffs().join("links/up0:in").exists() == scene.node.has_tcx(), "it is still listened to");
    drop((pod.host, neighbour.host));
    Ok(())
}

#[test]
fn what_goes_past_the_guard_inside_is_stopped_on_its_way() -> Result<()> {
    is_stopped_on_its_way(Node::new()?)
}

#[test]
fn what_goes_past_the_guard_inside_is_stopped_on_its_way_with_clsact() -> Result<()> {
    is_stopped_on_its_way(Node::with_clsact()?)
}

/// As on ipvlan: who has sent a frame with this MAC cannot be told.
#[test]
fn a_pod_with_its_nodes_mac_is_not_told_by_it() -> Result<()> {
    let scene = Scene::new(Node::new()?)?;
    let (guard, events) = scene.node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let uplink = PacketSocket::open(&scene.node.host, "up0")?;
    let host = Host::new("a")?;
    let namespace = host.path();
    let namespace = namespace.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
    scene.node.host.ip(&format!("link add link up0 name eth0 netns {namespace} type macvlan mode bridge"))?;
    scene.attach(&guard, &host, uplink.mac())?;
    scene.share(&guard)?;
    let frame = [frames::ipv4(uplink.mac(), UNBOUND, "the node's own")];
    ensure!(scene.hears(&uplink, &frame)? == 1);
    drop((guard, events));
    let _guard = scene.node.open()?;
    ensure!(scene.hears(&uplink, &frame)? == 1, "with the next agent");
    Ok(())
}
