//! Flushing of the neighbours and tracked connections of an address's former holder.

use std::time::Instant;

use anyhow::Result;
use holdfast_tests::netns::{Host, Lan};

use crate::{V4, V6, add, conntrack::Flow, lan, pod_net, ready_node, spec};

const HOST_V4: &str = "172.22.0.2";
const HOST_V6: &str = "fd00:22::2";

/// Connections with the pod's addresses in each field that an entry can have one in.
fn pods_flows() -> Vec<Flow> {
    vec![
        Flow::new(V4, HOST_V4),
        Flow::new(HOST_V4, V4),
        Flow::new(HOST_V4, "10.96.0.7").port(4002).served_by(V4),
        Flow::new(V4, HOST_V4).in_zone(7),
        Flow::new(V6, HOST_V6),
        Flow::new(HOST_V6, V6),
        Flow::new(HOST_V6, "fd00:96::7").port(4002).served_by(V6),
        Flow::new(V6, HOST_V6).in_zone(7),
    ]
}

fn others_flows() -> Vec<Flow> {
    vec![
        Flow::new("172.22.40.182", HOST_V4),
        Flow::new(HOST_V4, "10.96.0.7").port(4001).served_by("172.22.40.182"),
        Flow::new("fd00:22::b6", HOST_V6),
        Flow::new("172.22.40.182", HOST_V4).in_zone(7),
    ]
}

fn make(flows: &[Flow], node: &Host) -> Result<()> {
    flows.iter().try_for_each(|flow| flow.make(node))
}

fn assert_tracked(flows: &[Flow], node: &Host, tracked: bool) -> Result<()> {
    for flow in flows {
        assert_eq!(flow.is_tracked(node)?, tracked, "{flow:?}");
    }
    Ok(())
}

#[test]
fn connections_of_a_former_holder_are_flushed_and_others_stay() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    let (flows, others) = (pods_flows(), others_flows());
    // Connections that went through this node while another node had the address.
    make(&flows, &node)?;
    make(&others, &node)?;
    assert_tracked(&flows, &node, true)?;
    let old = node.block_on(async || {
        let old = add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?.0;
        network.wait_idle().await?;
        Ok(old)
    })?;
    assert_tracked(&flows, &node, false)?;
    assert_tracked(&others, &node, true)?;

    // A repeated ADD does not move the address.
    make(&flows, &node)?;
    node.block_on(async || {
        add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?;
        Ok(network.wait_idle().await?)
    })?;
    assert_tracked(&flows, &node, true)?;

    node.block_on(async || {
        add(&network, &spec("c2", &new_pod.path()), &pod_net()).await?;
        Ok(network.wait_idle().await?)
    })?;
    assert_tracked(&flows, &node, false)?;

    // The late removal of the old link flushes nothing; the withdrawal of the new one does.
    make(&flows, &node)?;
    node.block_on(async || {
        network.delete(&old.host_name).await?;
        Ok(network.wait_idle().await?)
    })?;
    assert_tracked(&flows, &node, true)?;
    node.block_on(async || {
        network.withdraw(&spec("c2", &new_pod.path()).container.host_link(&"eth0".parse()?)).await?;
        Ok(network.wait_idle().await?)
    })?;
    assert_tracked(&flows, &node, false)?;
    assert_tracked(&others, &node, true)
}

#[test]
fn thousands_of_connections_are_flushed() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let flows: Vec<_> = (1..=3000).map(|port| Flow::new(HOST_V4, V4).port(port)).collect();
    make(&flows, &node)?;
    let kept = Flow::new(HOST_V4, "172.22.40.182");
    kept.make(&node)?;
    node.block_on(async || {
        let began = Instant::now();
        add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        let added = began.elapsed();
        network.wait_idle().await?;
        println!("added after {added:?}, 3000 connections flushed after {:?}", began.elapsed());
        Ok(())
    })?;
    assert_tracked(&flows, &node, false)?;
    assert!(kept.is_tracked(&node)?);
    Ok(())
}

#[test]
fn a_namespace_deleted_before_its_link_leaves_no_connections() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let mut pod = Host::new("pod")?;
    let flows = pods_flows();
    let link = node.block_on(async || {
        let link = add(&network, &spec("c1", &pod.path()), &pod_net()).await?.0;
        network.wait_idle().await?;
        Ok(link)
    })?;
    make(&flows, &node)?;
    pod.remove()?;
    node.block_on(async || {
        network.delete(&link.host_name).await?;
        Ok(network.wait_idle().await?)
    })?;
    assert_tracked(&flows, &node, false)?;
    crate::assert_clean(&node)
}

#[test]
fn a_neighbour_on_the_uplink_is_flushed_when_its_address_moves_to_the_node() -> Result<()> {
    let lan = Lan::new()?;
    let (node, network) = ready_node(&lan, "node", 10)?;
    let (there, there_network) = ready_node(&lan, "there", 11)?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    there.block_on(async || Ok(add(&there_network, &spec("c1", &old_pod.path()), &pod_net()).await?))?;
    for address in [V4, V6] {
        node.ping(address)?;
        assert!(node.ip(&format!("neigh show {address} dev eth0"))?.contains("lladdr"));
    }
    // Other neighbours, and permanent ones of an administrator, stay.
    node.ip("neigh replace 172.22.0.77 lladdr 02:00:5e:00:53:77 dev eth0 nud reachable")?;
    node.ip("neigh replace 172.22.0.78 lladdr 02:00:5e:00:53:78 dev eth0 nud permanent")?;
    let link = node.block_on(async || {
        let link = add(&network, &spec("c2", &new_pod.path()), &pod_net()).await?.0;
        network.wait_idle().await?;
        Ok(link)
    })?;
    for address in [V4, V6] {
        let entries = node.ip(&format!("neigh show {address}"))?;
        assert!(entries.contains(link.host_name.as_str()) && !entries.contains("eth0"), "{entries}");
        node.ping(address)?;
    }
    for kept in ["172.22.0.77", "172.22.0.78"] {
        assert!(node.ip(&format!("neigh show {kept} dev eth0"))?.contains("lladdr"), "{kept}");
    }
    Ok(())
}

#[test]
fn an_older_link_keeps_no_neighbours() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    let neighbours = |link: &str| -> Result<String> {
        Ok(node.ip(&format!("neigh show dev {link} nud permanent"))?.trim().to_owned())
    };
    let (old, new) = node.block_on(async || {
        let old = add(&network, &spec("c1", &old_pod.path()), &pod_net()).await?.0;
        assert!(neighbours(old.host_name.as_str())?.contains(V4));
        let new = add(&network, &spec("c2", &new_pod.path()), &pod_net()).await?.0;
        network.wait_idle().await?;
        Ok((old, new))
    })?;
    assert_eq!(neighbours(old.host_name.as_str())?, "");
    assert!(neighbours(new.host_name.as_str())?.contains(V6));
    machine.ping(V4)?;

    // Neighbours that an earlier agent did not flush before it ended: the withdrawal of the link removes them.
    node.ip(&format!("neigh add {V4} lladdr {} dev {} nud permanent protocol 72", old.pod_mac, old.host_name))?;
    node.block_on(async || {
        assert!(network.withdraw(&old.host_name).await?.is_empty());
        assert_eq!(neighbours(old.host_name.as_str())?, "");
        assert_eq!(network.withdraw(&new.host_name).await?.len(), 2);
        assert_eq!(neighbours(new.host_name.as_str())?, "");
        Ok(())
    })
}
