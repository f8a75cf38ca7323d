//! Pods' links on the real kernel: LAN host ↔ node ↔ pod, each in a network namespace of its own.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use holdfast_agent::net::{LinkSpec, Mac, NetError, Network, PodAddress, PodNet};
use holdfast_core::id::{ContainerId, PodName};
use holdfast_tests::netns::{Host, Lan, within};

const V4: &str = "172.22.40.181";
const V6: &str = "fd00:22::b5";

fn spec(container: &str, netns: &Path) -> LinkSpec {
    LinkSpec {
        container: container.parse().expect("a container ID"),
        pod: PodName::new("default", "demo-0"),
        netns: netns.to_owned(),
        ifname: "eth0".parse().expect("an interface name"),
        mtu: None,
    }
}

fn pod_net() -> PodNet {
    let address = |text: &str| PodAddress { address: text.parse().expect("an address"), gateway: None };
    PodNet {
        addresses: vec![address("172.22.40.181/16"), address("fd00:22::b5/64")],
        routes: vec![],
        default_route: true,
        master: None,
    }
}

/// A LAN with one machine on it and a node that is ready for pods.
fn lan() -> Result<(Lan, Host, Host, Network)> {
    let lan = Lan::new()?;
    let machine = lan.host("host", &["172.22.0.2/16", "fd00:22::2/64"])?;
    let (node, network) = ready_node(&lan, "node", 10)?;
    Ok((lan, machine, node, network))
}

fn ready_node(lan: &Lan, label: &str, number: u8) -> Result<(Host, Network)> {
    let node = lan.host(label, &[&format!("172.22.0.{number}/16"), &format!("fd00:22::1:{number}/64")])?;
    let network = node.run(Network::open)??;
    node.block_on(async || Ok(network.prepare_node().await?))?;
    Ok((node, network))
}

/// Nothing of ours is on the node.
fn assert_clean(node: &Host) -> Result<()> {
    for listing in ["route show proto 72", "-6 route show proto 72", "neigh show proxy", "-6 neigh show proxy"] {
        assert_eq!(node.ip(listing)?.trim(), "", "{listing}");
    }
    let links = node.ip("-o link show")?;
    assert!(!links.contains("hf"), "{links}");
    Ok(())
}

#[test]
fn a_pod_is_reached_at_once_both_ways() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let (link, placement) = node.block_on(async || Ok(network.add(&spec("c1", &pod.path()), &pod_net()).await?))?;
    // No retry: the first packet counts.
    pod.ping("172.22.0.2")?;
    pod.ping("fd00:22::2")?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    pod.ping("172.22.0.10")?;
    node.ping(V4)?;
    node.ping(V6)?;

    assert_eq!(placement.uplink.name.as_str(), "eth0");
    assert_eq!(placement.mtu, 1500);
    assert_eq!(pod.mac("eth0")?, link.pod_mac.to_string());
    assert_eq!(node.mac(link.host_name.as_str())?, link.host_mac.to_string());
    let alias = node.ip(&format!("link show dev {}", link.host_name))?;
    assert!(alias.contains("alias holdfast c1 eth0 default/demo-0"), "{alias}");
    assert!(pod.ip("link show lo")?.contains("UP"));

    node.block_on(async || {
        network.check(&spec("c1", &pod.path()), &pod_net()).await?;
        let links = network.links().await?;
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].container, "c1".parse::<ContainerId>()?);
        assert_eq!(links[0].pod, Some(PodName::new("default", "demo-0")));
        assert_eq!(links[0].index, link.host_index);
        assert_eq!(links[0].addresses, [V4.parse::<IpAddr>()?, V6.parse()?]);
        Ok(())
    })
}

#[test]
fn pods_of_one_node_reach_each_other() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let (one, two) = (Host::new("one")?, Host::new("two")?);
    let mut other = pod_net();
    other.addresses = vec![
        PodAddress { address: "172.22.40.182/16".parse()?, gateway: None },
        PodAddress { address: "fd00:22::b6/64".parse()?, gateway: None },
    ];
    node.block_on(async || {
        network.add(&spec("c1", &one.path()), &pod_net()).await?;
        network.add(&spec("c2", &two.path()), &other).await?;
        Ok(())
    })?;
    one.ping("172.22.40.182")?;
    one.ping("fd00:22::b6")?;
    two.ping(V4)?;
    two.ping(V6)
}

#[test]
fn an_address_that_moves_to_another_node_is_found_there() -> Result<()> {
    let (lan, machine, old_node, old_network) = lan()?;
    let (new_node, new_network) = ready_node(&lan, "node2", 11)?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    old_node.block_on(async || Ok(old_network.add(&spec("c1", &old_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    let old_mac = old_node.mac("eth0")?;
    assert!(machine.ip(&format!("neigh show {V4}"))?.contains(&old_mac));

    // The old node is not told: it may be cut off, and goes on answering.
    new_node.block_on(async || Ok(new_network.add(&spec("c2", &new_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    let new_mac = new_node.mac("eth0")?;
    for address in [V4, V6] {
        let entry = machine.ip(&format!("neigh show {address}"))?;
        assert!(entry.contains(&new_mac), "{entry}");
    }
    // The old pod's node has its own route still; the new pod is what answered.
    let received = new_pod.ip("-s -o link show dev eth0")?;
    assert!(received.contains("RX:"), "{received}");
    old_node.block_on(async || {
        let name = spec("c1", &old_pod.path()).container.host_link(&"eth0".parse()?);
        let withdrawn = old_network.withdraw(&name).await?;
        assert_eq!(withdrawn, [V4.parse::<IpAddr>()?, V6.parse()?]);
        Ok(())
    })?;
    old_node.ping(V4)?;
    old_node.ping(V6)
}

#[test]
fn a_newer_sandbox_takes_over_and_the_late_removal_changes_nothing() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    let (old, _) = node.block_on(async || Ok(network.add(&spec("c1", &old_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    node.block_on(async || Ok(network.add(&spec("c2", &new_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    node.block_on(async || {
        network.delete(&old.host_name).await?;
        network.settle().await?;
        Ok(network.check(&spec("c2", &new_pod.path()), &pod_net()).await?)
    })?;
    machine.ping(V4)?;
    machine.ping(V6)
}

#[test]
fn deleting_leaves_nothing() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let (link, _) = network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        network.delete(&link.host_name).await?;
        assert!(network.links().await?.iter().all(|link| link.addresses.is_empty()));
        network.settle().await?;
        // Once more: nothing to remove is no error.
        Ok(network.delete(&link.host_name).await?)
    })?;
    assert_clean(&node)?;
    assert!(!pod.ip("-o link show")?.contains("eth0"));
    assert!(machine.ping(V4).is_err());
    Ok(())
}

#[test]
fn a_namespace_that_went_first_leaves_nothing_either() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let mut pod = Host::new("pod")?;
    let (link, _) = node.block_on(async || Ok(network.add(&spec("c1", &pod.path()), &pod_net()).await?))?;
    pod.remove()?;
    // The kernel takes namespaces apart in its own time.
    within(Duration::from_secs(10), || {
        anyhow::ensure!(!node.ip("-o link show")?.contains(link.host_name.as_str()), "the host end is still there");
        Ok(())
    })?;
    assert!(node.ip("neigh show proxy")?.contains(V4));
    node.block_on(async || Ok(network.delete(&link.host_name).await?))?;
    assert_clean(&node)
}

#[test]
fn adding_twice_gives_the_same_link() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let first = network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        let second = network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        assert_eq!(first, second);
        // And directly after a delete there is a new one, not the one on its way out.
        network.delete(&first.0.host_name).await?;
        let third = network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        assert_ne!(first.0.host_index, third.0.host_index);
        Ok(network.check(&spec("c1", &pod.path()), &pod_net()).await?)
    })?;
    machine.ping(V4)
}

#[test]
fn a_failure_undoes_what_was_done() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let mut loopback = pod_net();
        loopback.addresses[0].address = "127.0.0.7/8".parse()?;
        let error = network.add(&spec("c1", &pod.path()), &loopback).await.unwrap_err();
        assert!(matches!(error, NetError::Invalid { .. }) && error.to_string().contains("127.0.0.7"), "{error}");

        let mut no_uplink = pod_net();
        no_uplink.master = Some("eth7".parse()?);
        let error = network.add(&spec("c1", &pod.path()), &no_uplink).await.unwrap_err();
        assert!(matches!(error, NetError::BadUplink { .. }) && error.to_string().contains("eth7"), "{error}");
        Ok(network.settle().await?)
    })?;
    assert_clean(&node)?;

    pod.ip("link add eth0 type bridge")?;
    node.block_on(async || {
        let error = network.add(&spec("c1", &pod.path()), &pod_net()).await.unwrap_err();
        assert!(matches!(error, NetError::NameTaken { .. }) && error.to_string().contains("default/demo-0"), "{error}");
        Ok(())
    })?;
    assert_clean(&node)
}

#[test]
fn a_path_that_is_no_pods_namespace_is_refused() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let file = tempfile::NamedTempFile::new()?;
    node.block_on(async || {
        let error = network.create(&spec("c1", Path::new("/run/netns/test-none"))).await.unwrap_err();
        assert!(error.is_gone() && error.to_string().contains("/run/netns/test-none"), "{error}");
        for wrong in [file.path(), &node.path()] {
            let error = network.create(&spec("c1", wrong)).await.unwrap_err();
            assert!(matches!(error, NetError::Netns { .. } | NetError::Refused { .. }) && !error.is_gone(), "{error}");
        }
        Ok(())
    })?;
    assert_clean(&node)
}

#[test]
fn check_names_what_is_missing() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let (link, _) = node.block_on(async || Ok(network.add(&spec("c1", &pod.path()), &pod_net()).await?))?;
    node.ip(&format!("neigh del proxy {V4} dev eth0"))?;
    node.ip(&format!("-6 route del {V6}/128 dev {}", link.host_name))?;
    pod.ip(&format!("addr del {V4}/16 dev eth0"))?;
    let error = node.block_on(async || Ok(network.check(&spec("c1", &pod.path()), &pod_net()).await.unwrap_err()))?;
    let NetError::Drift { missing, .. } = &error else { panic!("{error}") };
    let text = missing.join("\n");
    for word in ["does not answer for 172.22.40.181 on eth0", "fd00:22::b5/128", "lost address 172.22.40.181/16"] {
        assert!(text.contains(word), "{text}");
    }
    Ok(())
}

#[test]
fn a_pod_without_a_default_route_reaches_its_subnet_alone() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let net = PodNet { default_route: false, routes: vec![("10.9.0.0/16".parse()?, None)], ..pod_net() };
    node.block_on(async || Ok(network.add(&spec("c1", &pod.path()), &net).await?))?;
    pod.ping("172.22.0.2")?;
    machine.ping(V6)?;
    let routes = pod.ip("route show")?;
    assert!(!routes.contains("default"), "{routes}");
    assert!(routes.contains("10.9.0.0/16 via 169.254.1.1"), "{routes}");
    Ok(())
}

#[test]
fn the_uplinks_mtu_is_the_pods() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    node.ip("link set eth0 mtu 1400")?;
    let (pod, fixed) = (Host::new("pod")?, Host::new("fixed")?);
    let mut other = pod_net();
    other.addresses = vec![PodAddress { address: "172.22.40.9/16".parse()?, gateway: None }];
    node.block_on(async || {
        let (link, placement) = network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        assert_eq!(placement.mtu, 1400);
        assert_eq!(link.pod_mac, Mac::of_pod(&link.host_name));
        let fixed = LinkSpec { mtu: Some(1300), ..spec("c2", &fixed.path()) };
        assert_eq!(network.add(&fixed, &other).await?.1.mtu, 1300);
        Ok(())
    })?;
    assert!(pod.ip("link show eth0")?.contains("mtu 1400"));
    assert!(fixed.ip("link show eth0")?.contains("mtu 1300"));
    Ok(())
}

#[test]
fn proxies_without_a_link_are_swept_and_an_administrators_stay() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    node.ip("neigh add proxy 172.22.50.1 dev eth0 protocol 72")?;
    node.ip("neigh add proxy 172.22.50.2 dev eth0")?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        assert_eq!(network.sweep().await?, ["172.22.50.1".parse::<IpAddr>()?]);
        Ok(())
    })?;
    let left = node.ip("neigh show proxy")?;
    assert!(left.contains("172.22.50.2") && left.contains(V4) && !left.contains("172.22.50.1"), "{left}");
    Ok(())
}

#[test]
fn an_uplink_that_was_down_is_answered_on_again() -> Result<()> {
    let (lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let kept = network.clone();
        tokio::spawn(async move { panic!("{:?}", kept.keep_exposed().await) });
        network.add(&spec("c1", &pod.path()), &pod_net()).await?;
        // Going down flushes the proxies of the interface; without its carrier some kernels do as well.
        node.ip("link set eth0 down")?;
        anyhow::ensure!(node.ip("neigh show proxy")?.is_empty(), "the kernel keeps proxies now?");
        node.ip("link set eth0 up")?;
        reached(&machine).await?;
        lan.cable(&node, "eth0", false)?;
        lan.cable(&node, "eth0", true)?;
        reached(&machine).await
    })?;
    // An agent that starts anew, after the interface was down without one.
    node.ip("link set eth0 down")?;
    node.ip("link set eth0 up")?;
    let restarted = node.run(Network::open)??;
    node.block_on(async || {
        let restored = restarted.restore().await?;
        assert_eq!(restored, [V4.parse::<IpAddr>()?, V6.parse()?]);
        assert!(restarted.restore().await?.is_empty());
        Ok(())
    })?;
    machine.ping(V4)
}

/// Waits until the machine reaches the pod with both families, leaving the runtime free meanwhile.
async fn reached(machine: &Host) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = machine.ping(V4).and_then(|()| machine.ping(V6));
        if answer.is_ok() || Instant::now() > deadline {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn what_is_being_added_is_not_exposed_by_others() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let link = network.create(&spec("c1", &pod.path())).await?;
        let placement = network.configure(&link, &pod_net()).await?;
        assert!(network.restore().await?.is_empty());
        assert!(network.sweep().await?.is_empty());
        anyhow::ensure!(machine.ping(V4).is_err(), "the LAN reaches an address that is not exposed yet");
        Ok(network.expose(&link, &pod_net(), &placement.uplink).await?)
    })?;
    machine.ping(V4)
}
