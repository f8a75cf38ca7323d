//! The guard inside a pod's network namespace.

use std::{fs::File, net::Ipv4Addr, os::fd::AsFd, time::Duration};

use anyhow::{Context, Result, ensure};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{Generation, IfIndex},
    mac::Mac,
};
use holdfast_guard::{BindingEntry, Datapath, EventKind, LinkInfo};
use holdfast_tests::{
    frames,
    guarded::{Node, Pod, forwards},
    netns::within,
};

const LIMIT: Duration = Duration::from_secs(5);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

fn two_pods(node: &Node, guard: &Datapath) -> Result<([Pod; 2], [IfIndex; 2])> {
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let pods = [node.pod("old")?, node.pod("new")?];
    let mut links = [IfIndex(0); 2];
    for (number, pod) in pods.iter().enumerate() {
        let (netns, generation) = (File::open(pod.host.path())?, Generation(number as u64 + 1));
        let (mac, container_tag) = (pod.socket.mac(), pod.tag);
        let info = LinkInfo { mac: Mac(mac), container_tag, generation, mode: GuardMode::Enforce };
        let link = guard.attach_inside(netns.as_fd(), &"eth0".parse()?, info)?;
        guard.bind(&BindingEntry { link, address: ADDRESS.into(), generation, container_tag, mac: Mac(mac) })?;
        links[number] = link;
    }
    ensure!(links[0] != links[1], "both are called eth0, and are two links");
    Ok((pods, links))
}

fn only_the_new_one_passes(node: &Node, pods: &[Pod; 2]) -> Result<()> {
    let frame = |pod: &Pod| [frames::ipv4(pod.socket.mac(), ADDRESS, "hello")];
    node.stops(&pods[0], &frame(&pods[0])).context("the old one")?;
    node.passes(&pods[1], &frame(&pods[1])).context("the new one")
}

fn are_guarded(node: &Node) -> Result<()> {
    let (guard, mut events) = node.open()?;
    let (pods, links) = two_pods(node, &guard)?;
    only_the_new_one_passes(node, &pods)?;
    let seen = events.wait()?;
    ensure!(seen.kind == EventKind::Stale && seen.link == links[0], "{seen:?}");
    drop((guard, events));
    only_the_new_one_passes(node, &pods).context("without an agent")?;
    let (guard, _events) = node.open()?;
    ensure!(guard.links()?.len() == 2);
    only_the_new_one_passes(node, &pods).context("with the next agent")?;
    // A pod that plays with its link does not get rid of it.
    pods[0].host.ip("link set eth0 down")?;
    pods[0].host.ip("link set eth0 up")?;
    forwards(&node.host, "old")?;
    only_the_new_one_passes(node, &pods).context("after the pod has played with its link")
}

#[test]
fn pods_without_a_host_side_are_guarded() -> Result<()> {
    are_guarded(&Node::new()?)
}

#[test]
fn pods_without_a_host_side_are_guarded_with_clsact() -> Result<()> {
    are_guarded(&Node::with_clsact()?)
}

#[test]
fn a_number_never_comes_again() -> Result<()> {
    let node = Node::new()?;
    let (mut guard, mut events) = node.open()?;
    let pod = node.pod("a")?;
    let name = "eth0".parse()?;
    let mut last = IfIndex(0);
    for restarts in [false, false, true, true] {
        if restarts {
            drop((guard, events));
            (guard, events) = node.open()?;
        }
        let link = guard.attach_inside(File::open(pod.host.path())?.as_fd(), &name, LinkInfo::default())?;
        ensure!(link > last, "{link} after {last}");
        guard.detach_pod_link(link, &name)?;
        ensure!(guard.links()?.is_empty());
        last = link;
    }
    Ok(())
}

#[test]
fn a_detached_link_inside_a_pod_is_forgotten() -> Result<()> {
    let node = Node::new()?;
    let (guard, events) = node.open()?;
    let (pods, links) = two_pods(&node, &guard)?;
    guard.detach_pod_link(links[0], &"eth0".parse()?)?;
    let frame = [frames::ipv4(pods[0].socket.mac(), ADDRESS, "hello")];
    if node.has_tcx() {
        // The kernel takes the program off a moment after its pin is gone.
        within(LIMIT, || node.passes(&pods[0], &frame))?;
    } else {
        // Nothing leads to a filter inside a pod. It stays, and lets nothing through.
        node.stops(&pods[0], &frame)?;
    }
    drop((pods, guard, events));
    let (guard, _events) = node.open()?;
    let unseen = usize::from(!node.has_tcx());
    ensure!(guard.links()?.len() == unseen, "{:?}", guard.links()?);
    Ok(())
}
