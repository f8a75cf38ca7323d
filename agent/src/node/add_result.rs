//! The result of an ADD for the runtime, and its addresses for the network.

use std::net::IpAddr;

use holdfast_cni::{AddResult, CniError, Interface, IpConfig, Route, code};
use holdfast_core::{
    id::{IdError, IfName},
    pool::Family,
};
use holdfast_ipam::IpAllocation;
use holdfast_net::{PodAddress, PodLink, PodNet};
use ipnet::IpNet;

use super::{cni_request::CniRequest, error::NodeError};

/// Returns both ends of a pod's link: the host's, then the pod's.
pub(super) fn interfaces(link: &PodLink, mtu: u32, request: &CniRequest) -> [Interface; 2] {
    let interface = |name: &IfName, mac: String, sandbox| Interface {
        name: name.to_string(),
        mac: Some(mac),
        mtu: Some(mtu),
        sandbox,
    };
    let sandbox = link.spec.netns.to_str().map(str::to_owned);
    [
        interface(&link.host_name, link.host_mac.to_string(), None),
        interface(&request.interface, link.pod_mac.to_string(), sandbox),
    ]
}

/// Returns the addresses and routes of a record, parsed.
pub(super) fn pod_net(request: &CniRequest, allocation: &IpAllocation) -> Result<PodNet, NodeError> {
    let ip = &allocation.ip;
    let addresses =
        ip.networks().map(|address| PodAddress { address, gateway: gateway(allocation, address) }).collect();
    let routes = ip.routes.iter().filter_map(|route| Some((route.dst.parse().ok()?, route.gw.parse().ok())));
    let master = request.conf.master.as_deref().map(str::parse).transpose();
    let master = master.map_err(|error: IdError| {
        CniError::new(code::INVALID_CONFIG, format!("master in the network configuration: {error}"))
    })?;
    Ok(PodNet { addresses, routes: routes.collect(), default_route: !ip.clean_gateway.unwrap_or(false), master })
}

fn gateway(allocation: &IpAllocation, address: IpNet) -> Option<IpAddr> {
    let text = match Family::of(address.addr()) {
        Family::V4 => &allocation.ip.ipv4_gateway,
        Family::V6 => &allocation.ip.ipv6_gateway,
    };
    text.as_ref()?.parse().ok()
}

/// Returns the result for the runtime. No interfaces: they are another plugin's.
pub(super) fn add_result(allocation: &IpAllocation, interfaces: &[Interface]) -> AddResult {
    let ip = &allocation.ip;
    let in_pod = interfaces.iter().position(|interface| interface.sandbox.is_some());
    let ips: Vec<_> = ip
        .networks()
        .map(|address| IpConfig {
            address,
            gateway: gateway(allocation, address),
            interface: in_pod.and_then(|index| u32::try_from(index).ok()),
        })
        .collect();
    let default_of = |ip: &IpConfig| {
        let any = if ip.address.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        ip.gateway.and_then(|gw| Some(Route { dst: any.parse().ok()?, gw: Some(gw) }))
    };
    let clean = ip.clean_gateway.unwrap_or(false);
    let mut routes: Vec<_> = ips.iter().filter(|_| !clean).filter_map(default_of).collect();
    let extra =
        ip.routes.iter().filter_map(|route| Some(Route { dst: route.dst.parse().ok()?, gw: route.gw.parse().ok() }));
    routes.extend(extra);
    AddResult { interfaces: interfaces.to_vec(), ips, routes, ..AddResult::default() }
}
