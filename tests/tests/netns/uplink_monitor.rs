//! Uplinks and the proxies on them.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use holdfast_core::mac::Mac;
use holdfast_net::{LinkSpec, Network, PodAddress};
use holdfast_tests::netns::Host;

use crate::{V4, V6, add, lan, pod_net, spec};

#[test]
fn proxies_without_a_link_are_pruned_and_an_administrators_stay() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    node.ip("neigh add proxy 172.22.50.1 dev eth0 protocol 72")?;
    node.ip("neigh add proxy 172.22.50.2 dev eth0")?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        assert_eq!(network.prune_proxies().await?, ["172.22.50.1".parse::<IpAddr>()?]);
        Ok(())
    })?;
    let left = node.ip("neigh show proxy")?;
    assert!(left.contains("172.22.50.2") && left.contains(V4) && !left.contains("172.22.50.1"), "{left}");
    Ok(())
}

#[test]
fn proxies_of_an_uplink_that_was_down_are_restored() -> Result<()> {
    let (lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let kept = network.clone();
        tokio::spawn(async move { panic!("{:?}", kept.monitor_uplinks().await) });
        add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        // The kernel flushes the proxies of an interface that goes down; some kernels also do when it loses its
        // carrier.
        node.ip("link set eth0 down")?;
        anyhow::ensure!(node.ip("neigh show proxy")?.is_empty(), "the kernel keeps proxies now?");
        node.ip("link set eth0 up")?;
        reached(&machine).await?;
        lan.cable(&node, "eth0", false)?;
        lan.cable(&node, "eth0", true)?;
        reached(&machine).await
    })?;
    // An agent that starts after the interface was down without an agent.
    node.ip("link set eth0 down")?;
    node.ip("link set eth0 up")?;
    let restarted = node.run(Network::open)??;
    node.block_on(async || {
        let restored = restarted.restore_proxies().await?;
        assert_eq!(restored, [V4.parse::<IpAddr>()?, V6.parse()?]);
        assert!(restarted.restore_proxies().await?.is_empty());
        // The bridge forwards again when it has noticed the carrier.
        reached(&machine).await
    })
}

/// Waits until the machine reaches the pod with both families. The runtime's tasks run meanwhile.
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
fn a_pod_has_the_uplinks_mtu() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    node.ip("link set eth0 mtu 1400")?;
    let (pod, fixed) = (Host::new("pod")?, Host::new("fixed")?);
    let mut other = pod_net();
    other.addresses = vec![PodAddress { address: "172.22.40.9/16".parse()?, gateway: None }];
    node.block_on(async || {
        let (link, configured) = add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        assert_eq!(configured.mtu, 1400);
        assert_eq!(link.pod_mac, Mac::of_pod(&link.host_name));
        let fixed = LinkSpec { mtu: Some(1300), ..spec("c2", &fixed.path()) };
        assert_eq!(add(&network, &fixed, &other).await?.1.mtu, 1300);
        Ok(())
    })?;
    assert!(pod.ip("link show eth0")?.contains("mtu 1400"));
    assert!(fixed.ip("link show eth0")?.contains("mtu 1300"));
    Ok(())
}

#[test]
fn a_pod_added_while_the_uplink_is_down_is_reached_when_it_comes_up() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.ip("link set eth0 down")?;
    node.block_on(async || {
        let kept = network.clone();
        tokio::spawn(async move { panic!("{:?}", kept.monitor_uplinks().await) });
        add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        node.ping(V4)?;
        node.ip("link set eth0 up")?;
        reached(&machine).await
    })
}

#[test]
fn default_sysctls_for_new_interfaces_do_not_cut_off_a_pod() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let set = |sysctl: &str, value: &str| -> Result<()> {
        Ok(node.run(|| std::fs::write(format!("/proc/sys/net/{sysctl}"), value))??)
    };
    set("ipv4/conf/default/forwarding", "0")?;
    set("ipv6/conf/default/disable_ipv6", "1")?;
    // A network manager sets this for its own interfaces.
    set("ipv6/conf/eth0/accept_ra", "1")?;
    set("ipv6/conf/eth0/forwarding", "0")?;
    node.block_on(async || Ok(add(&network, &spec("c1", &pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    pod.ping("172.22.0.2")?;
    pod.ping("fd00:22::2")?;
    let accept = node.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra"))??;
    assert_eq!(accept.trim(), "2", "router advertisements were accepted before");
    Ok(())
}
