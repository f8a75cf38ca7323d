//! Addresses that move between sandboxes and nodes.

use std::{future::Future, net::IpAddr};

use anyhow::Result;
use holdfast_net::{HostLink, PodLink};
use holdfast_tests::netns::Host;

use crate::{V4, V6, add, assert_clean, lan, pod_net, ready_node, spec};

#[test]
fn an_address_that_moves_to_another_node_is_reached_there() -> Result<()> {
    let (lan, machine, old_node, old_network) = lan()?;
    let (new_node, new_network) = ready_node(&lan, "node2", 11)?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    old_node.block_on(async || Ok(add(&old_network, &spec("c1", &old_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    let old_mac = old_node.mac("eth0")?;
    assert!(machine.ip(&format!("neigh show {V4}"))?.contains(&old_mac));

    // The old node may be cut off. It does not know of the move and goes on answering.
    new_node.block_on(async || Ok(add(&new_network, &spec("c2", &new_pod.path()), &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    let new_mac = new_node.mac("eth0")?;
    for address in [V4, V6] {
        let entry = machine.ip(&format!("neigh show {address}"))?;
        assert!(entry.contains(&new_mac), "{entry}");
    }
    // The old node still has its route; the new pod has answered.
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
fn late_removal_of_an_old_sandbox_changes_nothing() -> Result<()> {
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
fn an_older_sandbox_keeps_the_address_until_the_newer_one_is_advertised() -> Result<()> {
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

/// Starts an operation and drops its future, as an ADD does that runs out of time. The work on the blocking thread goes
/// on.
async fn abandon<T>(begun: impl Future<Output = T>) {
    tokio::select! {
        biased;
        _ = begun => {}
        () = std::future::ready(()) => {}
    }
}

#[test]
fn an_abandoned_operation_leaves_nothing_after_the_removal() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let spec = spec("c1", &pod.path());
    let name = spec.container.host_link(&spec.ifname);
    for _ in 0..20 {
        node.block_on(async || {
            abandon(network.create(&spec)).await;
            network.delete(&name).await?;
            Ok(network.wait_idle().await?)
        })?;
        assert_clean(&node)?;
        node.block_on(async || {
            let link = network.create(&spec).await?;
            let configured = network.configure(&link, &pod_net()).await?;
            abandon(network.advertise(&link, &pod_net(), &configured.uplink)).await;
            network.delete(&name).await?;
            Ok(network.wait_idle().await?)
        })?;
        assert_clean(&node)?;
    }
    Ok(())
}

#[test]
fn an_address_can_be_advertised_again_on_an_older_link() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    node.block_on(async || {
        let old = add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?.0;
        let new = add(&network, &spec("c2", &new_pod.path()), &pod_net()).await?.0;
        let found = network.links().await?.into_iter().find(|link| link.name == old.host_name);
        let found = found.expect("the old link");
        let addresses = [V4.parse::<IpAddr>()?, V6.parse()?];
        // This works while the newer link exists, and after it has gone.
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
