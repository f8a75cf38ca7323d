//! Addresses that change hands.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_abi::Counter;
use holdfast_core::{guard_mode::GuardMode, id::Generation};
use holdfast_guard::{BindingState, EventKind};
use holdfast_tests::{
    frames,
    guarded::{Node, binding, counted},
    netns::within,
    packet_socket::has,
};

const LIMIT: Duration = Duration::from_secs(5);

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn the_older_holder_is_silent_from_the_first_packet() -> Result<()> {
    let node = Node::new()?;
    let (guard, mut events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4), ("fd07::/64".parse()?, 6)])?;
    let (old, new) = (node.pod("old")?, node.pod("new")?);
    for pod in [&old, &new] {
        node.guard(&guard, pod, GuardMode::Enforce)?;
    }
    let all = |mac| {
        [
            frames::ipv4(mac, ADDRESS, "hello"),
            frames::arp(mac, mac, ADDRESS),
            frames::ipv6(mac, ADDRESS6, "hello"),
            frames::advertisement(mac, ADDRESS6, ADDRESS6, mac),
        ]
    };
    for address in [IpAddr::from(ADDRESS), ADDRESS6.into()] {
        guard.bind(&binding(&old, address, 1))?;
    }
    node.passes(&old, &all(old.socket.mac()))?;
    for address in [IpAddr::from(ADDRESS), ADDRESS6.into()] {
        guard.bind(&binding(&new, address, 2))?;
    }
    node.stops(&old, &all(old.socket.mac()))?;
    node.passes(&new, &all(new.socket.mac()))?;
    ensure!(counted(&guard, Counter::DropStale)? == 4, "{:?}", guard.counters()?);

    let seen = events.wait()?;
    ensure!(seen.kind == EventKind::Stale && seen.dropped && seen.link == old.link, "{seen:?}");
    ensure!(seen.generation == Generation(1) && seen.container_tag == old.tag, "{seen:?}");
    let holder = seen.holder.context("a stale address has a holder")?;
    ensure!(
        holder.generation == Generation(2) && holder.link == new.link && holder.mac.0 == new.socket.mac(),
        "{holder:?}"
    );

    let mut states: Vec<_> = guard
        .bindings()?
        .into_iter()
        .filter(|binding| binding.entry.address == IpAddr::from(ADDRESS))
        .map(|binding| (binding.entry.generation.0, binding.state))
        .collect();
    states.sort_by_key(|(generation, _)| *generation);
    ensure!(states == [(1, BindingState::Stale), (2, BindingState::Current)], "{states:?}");
    Ok(())
}

#[test]
fn nothing_reaches_the_older_holder() -> Result<()> {
    let node = Node::new()?;
    let (guard, _events) = node.open()?;
    let pod = node.pod("old")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    guard.bind(&binding(&pod, ADDRESS, 1))?;
    let lan = node.lan.mac();
    // To the address, and a request for it.
    let datagram = frames::ipv4_to(lan, Ipv4Addr::new(10, 7, 0, 9), ADDRESS, "for the holder");
    let mark = |text: &str| frames::other(lan, text);

    node.lan.send(&datagram)?;
    node.lan.send(&mark("first mark"))?;
    let heard = pod.socket.receive_until(|frame| has(frame, "first mark"))?;
    ensure!(heard.contains(&datagram), "the holder gets what is for it: {heard:02x?}");

    guard.mark_stale(pod.link, ADDRESS.into())?;
    node.lan.send(&datagram)?;
    node.lan.send(&frames::arp_probe(lan, ADDRESS))?;
    node.lan.send(&mark("second mark"))?;
    let heard = pod.socket.receive_until(|frame| has(frame, "second mark"))?;
    ensure!(heard.iter().all(|frame| !has(frame, "for the holder") && frame[12..14] != [8, 6]), "{heard:02x?}");
    ensure!(counted(&guard, Counter::DropToStale)? == 2);
    Ok(())
}

#[test]
fn an_unbound_address_is_foreign_and_a_detached_link_is_forgotten() -> Result<()> {
    let node = Node::new()?;
    let (guard, _events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let pod = node.pod("a")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    guard.bind(&binding(&pod, ADDRESS, 1))?;
    let frame = [frames::ipv4(pod.socket.mac(), ADDRESS, "hello")];
    node.passes(&pod, &frame)?;
    guard.unbind(pod.link, ADDRESS.into())?;
    guard.unbind(pod.link, ADDRESS.into()).context("unbinding what is not bound")?;
    node.stops(&pod, &frame)?;
    guard.bind(&binding(&pod, ADDRESS, 1))?;
    node.host.run(|| guard.detach_pod_link(pod.link, &pod.name))??;
    node.host.run(|| guard.detach_pod_link(pod.link, &pod.name))?.context("detaching what is not attached")?;
    ensure!(guard.bindings()?.is_empty() && guard.links()?.is_empty());
    // With nobody on the link, nothing is judged. The kernel takes the program off a moment after its pin is gone.
    within(LIMIT, || node.passes(&pod, &frame))?;
    let left = std::fs::read_dir(node.bpffs().join("links"))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    ensure!(left.iter().all(|name| name == "sandbox_exit"), "{left:?}");
    Ok(())
}

#[test]
fn a_lease_that_has_run_out_stops_the_address() -> Result<()> {
    let node = Node::new()?;
    let (guard, mut events) = node.open()?;
    let pod = node.pod("a")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    guard.bind(&binding(&pod, ADDRESS, 1))?;
    guard.lease(pod.link, ADDRESS.into(), Some(0))?;
    let frame = [frames::ipv4(pod.socket.mac(), ADDRESS, "hello")];
    node.stops(&pod, &frame)?;
    ensure!(events.wait()?.kind == EventKind::LeaseExpired);
    guard.set_lease(0, u64::MAX)?;
    node.passes(&pod, &frame)?;
    guard.set_lease(0, 1)?;
    node.stops(&pod, &frame)?;
    guard.lease(pod.link, ADDRESS.into(), None)?;
    node.passes(&pod, &frame)
}
