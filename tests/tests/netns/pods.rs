//! Creation, check and deletion of a pod's link.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::Result;
use holdfast_core::id::{ContainerId, PodName};
use holdfast_net::{NetError, PodAddress, PodNet};
use holdfast_tests::netns::{Host, within};

use crate::{V4, V6, add, assert_clean, lan, pod_net, spec};

#[test]
fn the_first_packet_passes_in_both_directions() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let (link, configured) = node.block_on(async || Ok(add(&network, &spec("c1", &pod.path()), &pod_net()).await?))?;
    // No retry: the first packet has to pass.
    pod.ping("172.22.0.2")?;
    pod.ping("fd00:22::2")?;
    machine.ping(V4)?;
    machine.ping(V6)?;
    pod.ping("172.22.0.10")?;
    node.ping(V4)?;
    node.ping(V6)?;

    assert_eq!(configured.uplink.name.as_str(), "eth0");
    assert_eq!(configured.mtu, 1500);
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
        assert_eq!(network.link_by_index(link.host_index).await?.as_ref(), links.first());
        assert_eq!(network.link_by_index(link.pod_index).await?, None);
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
        add(&network, &spec("c1", &one.path()), &pod_net()).await?;
        add(&network, &spec("c2", &two.path()), &other).await?;
        Ok(())
    })?;
    one.ping("172.22.40.182")?;
    one.ping("fd00:22::b6")?;
    two.ping(V4)?;
    two.ping(V6)
}

#[test]
fn deleting_leaves_nothing() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    node.block_on(async || {
        let (link, _) = add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        network.delete(&link.host_name).await?;
        assert!(network.links().await?.iter().all(|link| link.addresses.is_empty()));
        network.wait_idle().await?;
        // A repeated delete is no error.
        Ok(network.delete(&link.host_name).await?)
    })?;
    assert_clean(&node)?;
    assert!(!pod.ip("-o link show")?.contains("eth0"));
    assert!(machine.ping(V4).is_err());
    Ok(())
}

#[test]
fn a_namespace_deleted_before_its_link_leaves_nothing() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let mut pod = Host::new("pod")?;
    let (link, _) = node.block_on(async || Ok(add(&network, &spec("c1", &pod.path()), &pod_net()).await?))?;
    pod.remove()?;
    // The kernel destroys namespaces asynchronously.
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
        let first = add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        let second = add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
        assert_eq!(first, second);
        // An ADD directly after a delete creates a new link and does not find the one that is being deleted.
        network.delete(&first.0.host_name).await?;
        let third = add(&network, &spec("c1", &pod.path()), &pod_net()).await?;
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
        let error = add(&network, &spec("c1", &pod.path()), &loopback).await.unwrap_err();
        assert!(matches!(error, NetError::Invalid { .. }) && error.to_string().contains("127.0.0.7"), "{error}");

        let mut no_uplink = pod_net();
        no_uplink.master = Some("eth7".parse()?);
        let error = add(&network, &spec("c1", &pod.path()), &no_uplink).await.unwrap_err();
        assert!(matches!(error, NetError::BadUplink { .. }) && error.to_string().contains("eth7"), "{error}");
        Ok(network.wait_idle().await?)
    })?;
    assert_clean(&node)?;

    pod.ip("link add eth0 type bridge")?;
    node.block_on(async || {
        let error = add(&network, &spec("c1", &pod.path()), &pod_net()).await.unwrap_err();
        assert!(matches!(error, NetError::NameTaken { .. }) && error.to_string().contains("default/demo-0"), "{error}");
        Ok(())
    })?;
    assert_clean(&node)
}

#[test]
fn a_path_that_is_not_a_pods_namespace_is_refused() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let file = tempfile::NamedTempFile::new()?;
    node.block_on(async || {
        let error = network.create(&spec("c1", Path::new("/run/netns/test-none"))).await.unwrap_err();
        assert!(
            error.is_gone() && !error.is_environment() && error.to_string().contains("/run/netns/test-none"),
            "{error}"
        );
        let other_kind = Path::new("/proc/self/ns/uts");
        for (wrong, reason) in [
            (file.path(), "not a network namespace"),
            (file.path().parent().expect("a folder"), "not a network namespace"),
            (other_kind, "not a network namespace"),
            (&node.path(), "the node's own"),
        ] {
            let error = network.create(&spec("c1", wrong)).await.unwrap_err();
            assert!(error.is_environment() && error.to_string().contains(reason), "{error}");
        }
        Ok(())
    })?;
    assert_clean(&node)
}

#[test]
fn check_names_what_is_missing() -> Result<()> {
    let (_lan, _machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let (link, _) = node.block_on(async || Ok(add(&network, &spec("c1", &pod.path()), &pod_net()).await?))?;
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
fn a_pod_without_a_default_route_reaches_only_its_subnet() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let pod = Host::new("pod")?;
    let net = PodNet { default_route: false, routes: vec![("10.9.0.0/16".parse()?, None)], ..pod_net() };
    node.block_on(async || Ok(add(&network, &spec("c1", &pod.path()), &net).await?))?;
    pod.ping("172.22.0.2")?;
    machine.ping(V6)?;
    let routes = pod.ip("route show")?;
    assert!(!routes.contains("default"), "{routes}");
    assert!(routes.contains("10.9.0.0/16 via 169.254.1.1"), "{routes}");
    Ok(())
}
