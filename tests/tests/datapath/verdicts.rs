//! Which packets of a pod pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use holdfast_abi::Counter;
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::{Datapath, EventKind, Via};
use holdfast_tests::{
    frames::{self, Mac},
    guarded::{Node, Pod, Reports, binding, counted},
};

const MINE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const NEIGHBOURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);
const UNMANAGED: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 9);
const MINE6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const NEIGHBOURS6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 3);
/// In no pool.
const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const STRANGER: Mac = [2, 0, 0, 0, 0, 0x77];

/// Two guarded pods; `MINE` is bound to the first and `NEIGHBOURS` to the second.
struct Scene {
    node: Node,
    guard: Datapath,
    events: Reports,
    pod: Pod,
    neighbour: Pod,
}

fn scene(node: Node, mode: GuardMode) -> Result<Scene> {
    let (guard, events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4), ("fd07::/64".parse()?, 6)])?;
    let (pod, neighbour) = (node.pod("a")?, node.pod("b")?);
    for (pod, addresses) in
        [(&pod, [IpAddr::from(MINE), MINE6.into()]), (&neighbour, [NEIGHBOURS.into(), NEIGHBOURS6.into()])]
    {
        node.guard(&guard, pod, mode)?;
        for address in addresses {
            guard.bind(&binding(pod, address, 1))?;
        }
    }
    Ok(Scene { node, guard, events, pod, neighbour })
}

/// Frames of every kind that use an address.
fn kinds(mac: Mac, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<(&'static str, Via, Vec<u8>)> {
    vec![
        ("IPv4", Via::Ip, frames::ipv4(mac, v4, "hello")),
        ("ARP", Via::Arp, frames::arp(mac, mac, v4)),
        ("ARP probe", Via::Arp, frames::arp_probe(mac, v4)),
        ("IPv4 in a VLAN", Via::Ip, frames::tagged(&frames::ipv4(mac, v4, "hello"), VLAN, 7)),
        (
            "IPv4 in two VLANs",
            Via::Ip,
            frames::tagged(&frames::tagged(&frames::ipv4(mac, v4, "hello"), VLAN, 7), SERVICE_VLAN, 8),
        ),
        ("ARP in a VLAN", Via::Arp, frames::tagged(&frames::arp(mac, mac, v4), VLAN, 7)),
        ("IPv6", Via::Ip, frames::ipv6(mac, v6, "hello")),
        ("IPv6 in a VLAN", Via::Ip, frames::tagged(&frames::ipv6(mac, v6, "hello"), VLAN, 7)),
        ("advertisement", Via::Nd, frames::advertisement(mac, LINK_LOCAL, v6, mac)),
        ("hidden advertisement", Via::Nd, frames::hidden_advertisement(mac, LINK_LOCAL, v6, mac)),
        ("duplicate address detection", Via::Nd, frames::detection(mac, v6)),
        ("solicitation", Via::Nd, frames::solicitation(mac, v6, LINK_LOCAL, mac)),
        ("router solicitation", Via::Nd, frames::router_solicitation(mac, v6, mac)),
        ("redirect to it", Via::Nd, frames::redirect(mac, LINK_LOCAL, v6, REMOTE6, Some(mac))),
        ("redirect to it, without a MAC", Via::Nd, frames::redirect(mac, LINK_LOCAL, v6, REMOTE6, None)),
        ("redirect of what is for it", Via::Nd, frames::redirect(mac, LINK_LOCAL, LINK_LOCAL, v6, Some(mac))),
        ("redirect from it", Via::Ip, frames::redirect(mac, v6, LINK_LOCAL, REMOTE6, None)),
    ]
}

fn everything_with_its_own_address_passes(node: Node) -> Result<()> {
    let scene = scene(node, GuardMode::Enforce)?;
    for (what, _, frame) in kinds(scene.pod.socket.mac(), MINE, MINE6) {
        scene.node.passes(&scene.pod, &[frame]).with_context(|| what)?;
    }
    ensure!(counted(&scene.guard, Counter::PassCurrent)? >= 17, "{:?}", scene.guard.counters()?);
    ensure!(counted(&scene.guard, Counter::Events)? == 0, "{:?}", scene.guard.counters()?);
    Ok(())
}

fn nothing_with_a_neighbours_address_passes(node: Node) -> Result<()> {
    let mut scene = scene(node, GuardMode::Enforce)?;
    for (number, (what, via, frame)) in kinds(scene.pod.socket.mac(), NEIGHBOURS, NEIGHBOURS6).into_iter().enumerate() {
        scene.node.stops(&scene.pod, &[frame]).with_context(|| what)?;
        let dropped = counted(&scene.guard, Counter::DropForeign)?;
        ensure!(dropped == number as u64 + 1, "{what}: {dropped} counted");
        // The rate limit lets the first few through, four for each address.
        if number < 4 {
            let event = scene.events.wait().with_context(|| what)?;
            ensure!((event.kind, event.via, event.dropped) == (EventKind::Foreign, via, true), "{what}: {event:?}");
            ensure!(event.link == scene.pod.link && event.container_tag == scene.pod.tag, "{what}: {event:?}");
            ensure!(event.address == IpAddr::from(NEIGHBOURS) && event.pool == 4, "{what}: {event:?}");
            ensure!(event.mac.0 == scene.pod.socket.mac(), "{what}: {event:?}");
            let holder = event.holder.with_context(|| format!("{what}: no holder in {event:?}"))?;
            ensure!(holder.link == scene.neighbour.link && holder.container_tag == scene.neighbour.tag, "{holder:?}");
        }
    }
    ensure!(counted(&scene.guard, Counter::DropArp)? == 3 && counted(&scene.guard, Counter::DropNd)? == 8);
    // The neighbour itself has noticed nothing.
    for (what, _, frame) in kinds(scene.neighbour.socket.mac(), NEIGHBOURS, NEIGHBOURS6) {
        scene.node.passes(&scene.neighbour, &[frame]).with_context(|| what)?;
    }
    Ok(())
}

#[test]
fn own_addresses_pass() -> Result<()> {
    everything_with_its_own_address_passes(Node::new()?)
}

#[test]
fn own_addresses_pass_with_clsact() -> Result<()> {
    everything_with_its_own_address_passes(Node::with_clsact()?)
}

#[test]
fn a_neighbours_addresses_are_dropped_and_reported() -> Result<()> {
    nothing_with_a_neighbours_address_passes(Node::new()?)
}

#[test]
fn a_neighbours_addresses_are_dropped_and_reported_with_clsact() -> Result<()> {
    nothing_with_a_neighbours_address_passes(Node::with_clsact()?)
}

#[test]
fn outside_every_pool_nothing_is_touched() -> Result<()> {
    let scene = scene(Node::new()?, GuardMode::Enforce)?;
    let mac = scene.pod.socket.mac();
    for (what, _, frame) in kinds(mac, UNMANAGED, LINK_LOCAL) {
        scene.node.passes(&scene.pod, &[frame]).with_context(|| what)?;
    }
    // Nor is a MAC of its own that a pod has for what it runs inside.
    scene.node.passes(&scene.pod, &[frames::ipv4(STRANGER, UNMANAGED, "nested"), frames::other(STRANGER, "nested")])?;
    ensure!(counted(&scene.guard, Counter::Events)? == 0, "{:?}", scene.guard.counters()?);
    Ok(())
}

#[test]
fn observed_pods_are_only_reported() -> Result<()> {
    let mut scene = scene(Node::new()?, GuardMode::Observe)?;
    let mac = scene.pod.socket.mac();
    scene.node.passes(&scene.pod, &[frames::ipv4(mac, NEIGHBOURS, "hello")])?;
    let seen = scene.events.wait()?;
    ensure!(seen.kind == EventKind::Foreign && !seen.dropped, "{seen:?}");
    scene.node.passes(&scene.pod, &[frames::ipv4(STRANGER, MINE, "hello")])?;
    let seen = scene.events.wait()?;
    ensure!(seen.kind == EventKind::Mac && !seen.dropped && seen.mac.0 == STRANGER, "{seen:?}");
    ensure!(counted(&scene.guard, Counter::PassObserved)? == 2);
    Ok(())
}

#[test]
fn a_foreign_mac_is_dropped_and_reported() -> Result<()> {
    let mut scene = scene(Node::new()?, GuardMode::Enforce)?;
    let (mac, neighbours) = (scene.pod.socket.mac(), scene.neighbour.socket.mac());
    let cases = [
        ("own address, foreign source MAC", frames::ipv4(STRANGER, MINE, "hello"), STRANGER),
        ("own address and own MAC in ARP, foreign source MAC", frames::arp(STRANGER, mac, MINE), STRANGER),
        ("own address, foreign MAC in ARP", frames::arp(mac, STRANGER, MINE), STRANGER),
        ("own address, foreign MAC in an advertisement", frames::advertisement(mac, MINE6, MINE6, STRANGER), STRANGER),
        ("no managed address, the neighbour's MAC", frames::ipv4(neighbours, UNMANAGED, "hello"), neighbours),
        ("no address, the neighbour's MAC", frames::other(neighbours, "hello"), neighbours),
    ];
    for (what, frame, used) in cases {
        scene.node.stops(&scene.pod, &[frame]).with_context(|| what)?;
        let seen = scene.events.wait().with_context(|| what)?;
        ensure!(seen.kind == EventKind::Mac && seen.dropped && seen.mac.0 == used, "{what}: {seen:?}");
    }
    Ok(())
}

#[test]
fn a_foreign_mac_in_neighbour_discovery_is_dropped_and_reported() -> Result<()> {
    let mut scene = scene(Node::new()?, GuardMode::Enforce)?;
    let mac = scene.pod.socket.mac();
    // No more than the rate limit lets through for one address.
    let cases = [
        ("behind other options", frames::wordy_advertisement(mac, MINE6, MINE6, STRANGER, 3)),
        ("in a solicitation", frames::solicitation(mac, MINE6, LINK_LOCAL, STRANGER)),
        ("in a router solicitation", frames::router_solicitation(mac, MINE6, STRANGER)),
        ("in a redirect", frames::redirect(mac, LINK_LOCAL, MINE6, REMOTE6, Some(STRANGER))),
    ];
    for (what, frame) in cases {
        scene.node.stops(&scene.pod, &[frame]).with_context(|| what)?;
        let seen = scene.events.wait().with_context(|| what)?;
        ensure!((seen.kind, seen.via, seen.dropped) == (EventKind::Mac, Via::Nd, true), "{what}: {seen:?}");
        ensure!(seen.mac.0 == STRANGER && seen.address == IpAddr::from(MINE6), "{what}: {seen:?}");
    }
    Ok(())
}

#[test]
fn a_mode_changes_without_attaching_again() -> Result<()> {
    let scene = scene(Node::new()?, GuardMode::Enforce)?;
    let frame = frames::ipv4(scene.pod.socket.mac(), NEIGHBOURS, "hello");
    scene.node.stops(&scene.pod, std::slice::from_ref(&frame))?;
    scene.node.guard(&scene.guard, &scene.pod, GuardMode::Observe)?;
    scene.node.passes(&scene.pod, &[frame])
}

#[test]
fn pools_come_and_go() -> Result<()> {
    let scene = scene(Node::new()?, GuardMode::Enforce)?;
    let frame = frames::ipv4(scene.pod.socket.mac(), NEIGHBOURS, "hello");
    let pools = [("10.7.0.0/16".parse()?, 4), ("fd07::/64".parse()?, 6)];
    ensure!(scene.guard.set_pools(&pools)? == 0, "nothing changed");
    ensure!(scene.guard.set_pools(&pools[1..])? == 1, "one removed");
    scene.node.passes(&scene.pod, std::slice::from_ref(&frame))?;
    ensure!(scene.guard.set_pools(&[pools[1], ("10.7.0.0/24".parse()?, 5)])? == 1, "one added");
    scene.node.stops(&scene.pod, &[frame])
}
