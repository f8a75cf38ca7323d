//! Agents come and go; the guard stays.

use std::{fs, net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use holdfast_abi::{
    Address, Binding, BindingKey, LAYOUT_VERSION, META_LAYOUT, Owner, STATE_CURRENT, STATE_STALE, v4_mapped,
};
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::{BindingState, Datapath, DatapathError, EventKind};
use holdfast_tests::{
    frames,
    guarded::{Node, binding},
};

const MINE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const NEIGHBOURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 3);

fn goes_on(node: &Node) -> Result<()> {
    let (guard, events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let pod = node.pod("a")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    guard.bind(&binding(&pod, MINE, 1))?;
    let (bindings, links) = (guard.bindings()?, guard.links()?);
    let good = [frames::ipv4(pod.socket.mac(), MINE, "hello")];
    let bad = [frames::ipv4(pod.socket.mac(), NEIGHBOURS, "hello")];
    drop((guard, events));

    node.passes(&pod, &good).context("without an agent")?;
    node.stops(&pod, &bad).context("without an agent")?;

    let (guard, mut events) = node.open()?;
    ensure!((guard.bindings()?, guard.links()?) == (bindings, links), "all of it was adopted");
    ensure!(events.wait()?.kind == EventKind::Foreign, "what was seen meanwhile is heard of now");
    node.passes(&pod, &good).context("with the next agent")?;
    node.stops(&pod, &bad).context("with the next agent")?;
    node.guard(&guard, &pod, GuardMode::Enforce).context("attaching once more")?;
    guard.unbind(pod.link, MINE.into())?;
    node.stops(&pod, &good).context("the next agent's maps are those of the programs")
}

#[test]
fn enforcement_goes_on_without_an_agent() -> Result<()> {
    goes_on(&Node::new()?)
}

#[test]
fn enforcement_goes_on_without_an_agent_with_clsact() -> Result<()> {
    goes_on(&Node::with_clsact()?)
}

#[test]
fn what_belongs_to_no_interface_is_removed_at_the_start() -> Result<()> {
    let node = Node::new()?;
    let (guard, events) = node.open()?;
    let (gone, stays) = (node.pod("gone")?, node.pod("stays")?);
    for pod in [&gone, &stays] {
        node.guard(&guard, pod, GuardMode::Enforce)?;
        guard.bind(&binding(pod, MINE, 1))?;
    }
    drop((guard, events));
    node.host.ip("link del dev gone")?;
    let (guard, _events) = node.open()?;
    let links: Vec<_> = guard.links()?.into_iter().map(|link| link.link).collect();
    ensure!(links == [stays.link], "{links:?}");
    ensure!(guard.bindings()?.iter().all(|binding| binding.entry.link == stays.link), "{:?}", guard.bindings()?);
    ensure!(!node.bpffs().join("links/gone:in").exists());
    Ok(())
}

/// A pinned map, as the guard's agent has it.
fn pinned<K: Pod, V: Pod>(node: &Node, name: &str) -> Result<HashMap<MapData, K, V>> {
    let map = MapData::from_pin(node.bpffs().join("maps").join(name))?;
    Ok(Map::from_map_data(map)?.try_into()?)
}

/// What is left if the agent ends in the middle of giving an address to another holder.
#[test]
fn of_two_holders_the_older_one_is_fenced_at_the_start() -> Result<()> {
    let node = Node::new()?;
    let (mut guard, mut events) = node.open()?;
    let (old, new) = (node.pod("old")?, node.pod("new")?);
    for pod in [&old, &new] {
        node.guard(&guard, pod, GuardMode::Enforce)?;
    }
    let address = v4_mapped(MINE.octets());
    // Generations of the two, which of them is written as the owner, and which one stays.
    for (generations, owner, stays) in
        [([1, 2], Some(&old), &new), ([4, 3], Some(&new), &old), ([5, 5], Some(&old), &old), ([6, 7], None, &new)]
    {
        for (pod, generation) in [&old, &new].into_iter().zip(generations) {
            guard.bind(&binding(pod, MINE, generation))?;
        }
        drop((guard, events));
        let mut bindings: HashMap<_, BindingKey, Binding> = pinned(&node, "BINDINGS")?;
        let mut owners: HashMap<_, Address, Owner> = pinned(&node, "OWNERS")?;
        let key = BindingKey::new(old.link.0, address);
        let value = bindings.get(&key, 0)?;
        ensure!(value.state == STATE_STALE, "{value:?}");
        bindings.insert(key, Binding { state: STATE_CURRENT, ..value }, 0)?;
        match owner {
            Some(pod) => owners.insert(address, Owner { link: pod.link.0, ..owners.get(&address, 0)? }, 0)?,
            None => owners.remove(&address)?,
        }
        (guard, events) = node.open()?;
        let mut current = guard.bindings()?;
        current.retain(|binding| binding.state == BindingState::Current);
        ensure!(current.len() == 1 && current[0].entry.link == stays.link, "{generations:?}: {current:?}");
        let (owner, entry) = (owners.get(&address, 0)?, current[0].entry);
        ensure!((owner.link, owner.generation) == (stays.link.0, entry.generation.0), "{generations:?}: {owner:?}");
        ensure!((owner.mac, owner.container_tag) == (entry.mac.0, stays.tag), "{generations:?}: {owner:?}");
        let loser = if stays.link == old.link { &new } else { &old };
        node.stops(loser, &[frames::ipv4(loser.socket.mac(), MINE, "hello")])?;
        node.passes(stays, &[frames::ipv4(stays.socket.mac(), MINE, "hello")])?;
    }
    // An owner that holds nothing is none.
    drop((guard, events));
    let mut owners: HashMap<_, Address, Owner> = pinned(&node, "OWNERS")?;
    let nobodys = v4_mapped(NEIGHBOURS.octets());
    owners.insert(nobodys, Owner { link: old.link.0, ..owners.get(&address, 0)? }, 0)?;
    let _guard = node.open()?;
    ensure!(matches!(owners.get(&nobodys, 0), Err(MapError::KeyNotFound)));
    Ok(())
}

#[test]
fn a_link_of_the_same_name_is_a_new_one() -> Result<()> {
    let node = Node::new()?;
    let (guard, _events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let first = node.pod("a")?;
    node.guard(&guard, &first, GuardMode::Enforce)?;
    node.host.ip("link del dev a")?;
    let second = node.pod("a")?;
    ensure!(first.link != second.link);
    node.guard(&guard, &second, GuardMode::Enforce)?;
    node.stops(&second, &[frames::ipv4(second.socket.mac(), MINE, "hello")])?;
    // The first one's end is late; it must not take the second one's guard off.
    node.host.run(|| guard.detach_pod_link(first.link, &first.name))??;
    node.stops(&second, &[frames::ipv4(second.socket.mac(), MINE, "hello")])
}

#[test]
fn another_layout_is_refused() -> Result<()> {
    let node = Node::new()?;
    drop(node.open()?);
    let meta = Map::from_map_data(MapData::from_pin(node.bpffs().join("maps/META"))?)?;
    let mut meta: Array<MapData, u64> = meta.try_into()?;
    meta.set(META_LAYOUT, u64::from(LAYOUT_VERSION) + 1, 0)?;
    let error = node.host.run(|| Datapath::open(&node.config()))?.expect_err("another layout");
    ensure!(matches!(error, DatapathError::Layout { .. }), "{error}");
    ensure!(error.to_string().contains(&node.bpffs().display().to_string()), "{error}");
    Ok(())
}

#[test]
fn maps_that_a_crash_left_without_a_layout_are_made_anew() -> Result<()> {
    let node = Node::new()?;
    drop(node.open()?);
    fs::remove_file(node.bpffs().join("maps/META"))?;
    fs::remove_file(node.bpffs().join("links/sandbox_exit"))?;
    node.open()?;
    Ok(())
}

#[test]
fn a_link_without_its_interface_is_refused() -> Result<()> {
    let node = Node::new()?;
    let (guard, _events) = node.open()?;
    let pod = node.pod("a")?;
    node.host.ip("link del dev a")?;
    let error = node.guard(&guard, &pod, GuardMode::Enforce).expect_err("no interface");
    ensure!(error.chain().any(|cause| cause.to_string().contains("there is no interface a")), "{error:#}");
    ensure!(guard.links()?.is_empty());
    Ok(())
}

#[test]
fn a_sandbox_that_ends_is_reported_and_stays_until_it_is_forgotten() -> Result<()> {
    let node = Node::new()?;
    let (guard, mut events) = node.open()?;
    ensure!(guard.watches_sandboxes());
    let mut forgotten = Command::new("sleep").arg("1000").spawn()?;
    let mut process = Command::new("sleep").arg("1000").spawn()?;
    guard.watch_sandbox(forgotten.id(), 6)?;
    guard.watch_sandbox(process.id(), 7)?;
    guard.forget_sandbox(forgotten.id())?;
    forgotten.kill()?;
    forgotten.wait()?;
    process.kill()?;
    let seen = events.wait()?;
    ensure!((seen.kind, seen.container_tag, seen.process) == (EventKind::SandboxExit, 7, process.id()), "{seen:?}");
    process.wait()?;
    // An agent that ends here has dealt with nothing: the next one finds the process that is no more.
    drop(guard);
    let (guard, _) = node.open()?;
    ensure!(guard.sandboxes()? == [(process.id(), 7)], "{:?}", guard.sandboxes()?);
    guard.forget_sandbox_of(process.id(), 6).context("another container's")?;
    ensure!(guard.sandboxes()?.len() == 1);
    for _ in 0..2 {
        guard.forget_sandbox_of(process.id(), 7)?;
        ensure!(guard.sandboxes()?.is_empty());
    }
    // Its program has taken the place of the first one's.
    let mut process = Command::new("sleep").arg("1000").spawn()?;
    guard.watch_sandbox(process.id(), 8)?;
    process.kill()?;
    process.wait()?;
    ensure!(events.wait()?.container_tag == 8);
    // The first one's program is taken off a moment after the second one's came. Until then both report.
    while let Some(again) = events.try_next() {
        ensure!(again?.container_tag == 8);
    }
    ensure!(guard.sandboxes()? == [(process.id(), 8)]);
    Ok(())
}
