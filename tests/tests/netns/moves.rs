//! Addresses that move between sandboxes and nodes.

use std::{future::Future, net::IpAddr};

use anyhow::Result;
use holdfast_net::{HostLink, PodLink};
use holdfast_tests::netns::Host;

use crate::{V4, V6, add, assert_clean, lan, pod_net, ready_node, spec};

#[test]
fn an_address_that_moves_to_another_node_is_found_there() -> Result<()> {
    let (lan, machine, old_node, old_network) = lan()?;
    let (new_node, new_network) = ready_node(&lan, "node2", 11)?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    old_node.block_on(async || Ok(add(&old_network, &spec("c1", &old_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    let old_mac = old_node.mac("eth0")?;
    assert!(machine.ip(&format!("neigh show {V4}"))?.contains(&old_mac));

    // The old node is not told: it may be cut off, and goes on answering.
    new_node.block_on(async || Ok(add(&new_network, &spec("c2", &new_pod.path()), &pod_net()).await?))?;
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
    let (old, _) = node.block_on(async || Ok(add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    node.block_on(async || Ok(add(&network, &spec("c2", &new_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    node.block_on(async || {
        network.delete(&old.host_name).await?;
        network.wait_idle().await?;
        Ok(network.check(&spec("c2", &new_pod.path()), &pod_net()).await?)
    })?;
    machine.ping(V4)?;
    machine.ping(V6)
}

#[test]
fn until_it_is_advertised_the_older_sandbox_has_the_address() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    node.block_on(async || {
        let new = network.create(&spec("c2", &new_pod.path())).await?;
        let configured = network.configure(&new, &pod_net()).await?;
        assert!(network.restore_proxies().await?.is_empty());
        assert!(network.prune_proxies().await?.is_empty());
        assert!(network.links().await?.iter().all(|link| link.addresses.is_empty()));
        anyhow::ensure!(machine.ping(V4).is_err(), "the LAN reaches an address that is not advertised yet");

        let old = add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?.0;
        network.configure(&new, &pod_net()).await?;
        has_addresses(&network.links().await?, &old);
        machine.ping(V4)?;
        network.advertise(&new, &pod_net(), &configured.uplink).await?;
        has_addresses(&network.links().await?, &new);
        Ok(())
    })?;
    machine.ping(V4)?;
    machine.ping(V6)
}

fn has_addresses(links: &[HostLink], holder: &PodLink) {
    for link in links {
        assert_eq!(link.addresses.len(), if link.name == holder.host_name { 2 } else { 0 }, "{link:?}");
    }
}

/// Begins something and gives it up, as an ADD does that runs out of time. What the kernel was asked goes on.
async fn give_up<T>(begun: impl Future<Output = T>) {
    tokio::select! {
        biased;
        _ = begun => {}
        () = std::future::ready(()) => {}
    }
}

#[test]
fn what_was_given_up_does_not_come_after_the_removal() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let spec = spec("c1", &pod.path());
    let name = spec.container.host_link(&spec.ifname);
    for _ in 0..20 {
        node.block_on(async || {
            give_up(network.create(&spec)).await;
            network.delete(&name).await?;
            Ok(network.wait_idle().await?)
        })?;
        assert_clean(&node)?;
        node.block_on(async || {
            let link = network.create(&spec).await?;
            let configured = network.configure(&link, &pod_net()).await?;
            give_up(network.advertise(&link, &pod_net(), &configured.uplink)).await;
            network.delete(&name).await?;
            Ok(network.wait_idle().await?)
        })?;
        assert_clean(&node)?;
    }
    Ok(())
}

#[test]
fn an_older_sandbox_can_have_its_address_back() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    node.block_on(async || {
        let old = add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?.0;
        let new = add(&network, &spec("c2", &new_pod.path()), &pod_net()).await?.0;
        let found = network.links().await?.into_iter().find(|link| link.name == old.host_name);
        let found = found.expect("the old link");
        let addresses = [V4.parse::<IpAddr>()?, V6.parse()?];
        // Whether the newer one is still there, or has gone already.
        network.readvertise(&found, &addresses).await?;
        has_addresses(&network.links().await?, &old);
        machine.ping(V4)?;
        network.delete(&new.host_name).await?;
        network.wait_idle().await?;
        machine.ping(V6)?;
        assert_eq!(network.withdraw(&old.host_name).await?, addresses);
        network.readvertise(&found, &addresses).await?;
        network.check(&spec("c1", &old_pod.path()), &pod_net()).await?;
        network.wait_idle().await?;
        Ok(())
    })?;
    machine.ping(V4)?;
    machine.ping(V6)
}
