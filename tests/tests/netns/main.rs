//! Pods' links on the real kernel: LAN host ↔ node ↔ pod, each in a network namespace of its own.

mod conntrack;
mod flush;
mod moves;
mod pods;
mod stream;
mod uplink_monitor;

use std::path::Path;

use anyhow::Result;
use holdfast_core::id::PodName;
use holdfast_net::{ConfiguredLink, LinkSpec, NetError, Network, PodAddress, PodLink, PodNet};
use holdfast_tests::netns::{Host, Lan};

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

/// Creates, configures and advertises a link, as an ADD does. A failure deletes the link.
async fn add(network: &Network, spec: &LinkSpec, net: &PodNet) -> Result<(PodLink, ConfiguredLink), NetError> {
    let link = network.create(spec).await?;
    let rest = async {
        let configured = network.configure(&link, net).await?;
        network.advertise(&link, net, &configured.uplink).await.map(|()| configured)
    };
    match rest.await {
        Ok(configured) => Ok((link, configured)),
        Err(error) => {
            network.delete(&link.host_name).await?;
            Err(error)
        }
    }
}

/// Asserts that the node has no link, route or proxy of ours.
fn assert_clean(node: &Host) -> Result<()> {
    for listing in ["route show proto 72", "-6 route show proto 72", "neigh show proxy", "-6 neigh show proxy"] {
        assert_eq!(node.ip(listing)?.trim(), "", "{listing}");
    }
    let links = node.ip("-o link show")?;
    assert!(!links.contains("hf"), "{links}");
    Ok(())
}
