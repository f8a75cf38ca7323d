//! The endpoint before and after a bind: the addresses that the interface keeps, and the record with the new holder.

use std::{collections::HashSet, net::IpAddr};

use holdfast_api::{
    annotations::RETAIN,
    endpoint::{EndpointIp, HolderState, SpiderEndpoint},
};
use holdfast_core::pool::Family;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::{assigned_address::AssignedAddress, bind_spec::BindSpec, pool_cache::PoolCache, requests::IpAllocation};

impl BindSpec<'_> {
    /// Returns the addresses that `before` lists for interfaces other than the request's.
    pub(crate) fn on_other_interfaces(&self, before: Option<&SpiderEndpoint>) -> HashSet<IpAddr> {
        let ips = before.and_then(|before| before.status.as_ref()).into_iter().flat_map(|status| &status.current.ips);
        let others = ips.filter(|ip| ip.interface != self.request.interface.as_str());
        others.flat_map(EndpointIp::networks).map(|net| net.addr()).collect()
    }

    /// Returns the addresses that the interface keeps. A new sandbox of the same pod keeps them, and so does a new pod of
    /// the same StatefulSet, unless its author names other pools now. A change of default pools moves no address.
    pub(crate) fn kept_addresses(
        &self,
        before: Option<&SpiderEndpoint>,
        lost: &HashSet<IpAddr>,
    ) -> Vec<AssignedAddress> {
        let Some(status) = before.and_then(|before| before.status.as_ref()) else { return Vec::new() };
        let is_sticky = self.settings.sticky_stateful_sets && self.owner.is_stateful_set() && self.owner.owns(status);
        if !is_sticky && status.current.uid != self.pod_uid {
            return Vec::new();
        }
        let Some(ip) = status.current.ips.iter().find(|ip| ip.interface == self.request.interface.as_str()) else {
            return Vec::new();
        };
        let pairs = [(&ip.ipv4, &ip.ipv4_pool, Family::V4), (&ip.ipv6, &ip.ipv6_pool, Family::V6)];
        let kept = pairs.into_iter().filter_map(|(net, pool, family)| {
            let assigned = AssignedAddress::new(net.as_ref()?.parse().ok()?, pool.as_deref().unwrap_or_default());
            let is_served = self.settings.families.contains(&family);
            let is_allowed = !self.selection.is_explicit() || self.selection.allows(family, &assigned.pool);
            let is_static = self.static_ip(family).is_none_or(|address| address == assigned.address());
            (is_served && is_allowed && is_static && !lost.contains(&assigned.address())).then_some(assigned)
        });
        kept.collect()
    }

    /// Returns the endpoint with the request's container as its holder. For the container that holds it already, the
    /// endpoint is the same, byte for byte.
    pub(crate) fn next_endpoint(
        &self,
        before: Option<&SpiderEndpoint>,
        assigned: &[AssignedAddress],
        pools: &PoolCache,
        now: Timestamp,
    ) -> SpiderEndpoint {
        let mut endpoint = before.cloned().unwrap_or_else(|| SpiderEndpoint::for_pod(&self.request.pod));
        let mut status = endpoint.status.take().unwrap_or_default();
        let ip = self.interface_entry(assigned, pools);
        if !self.owner.owns(&status) || (!self.owner.is_stateful_set() && status.current.uid != self.pod_uid) {
            status.current.ips.clear();
        }
        if status.current.container_id.as_ref() != Some(&self.request.container) || status.current.uid != self.pod_uid {
            status.end_holder(now, "Rebound");
            let current = &mut status.current;
            current.generation = current.generation.next();
            current.container_id = Some(self.request.container.clone());
            current.uid.clone_from(&self.pod_uid);
            current.node.clone_from(&self.settings.node);
            current.state = HolderState::Bound;
            current.bound_at = Some(now);
        }
        match status.current.ips.iter_mut().find(|entry| entry.interface == ip.interface) {
            Some(entry) => *entry = ip,
            None => status.current.ips.push(ip),
        }
        status.owner_controller_type.clone_from(&self.owner.kind);
        status.owner_controller_name.clone_from(&self.owner.name);
        status.owner_controller_uid.clone_from(&self.owner.uid);
        endpoint.status = Some(status);
        endpoint.label_with_node(&self.settings.node);
        match &self.retain {
            Some(retain) => drop(endpoint.annotations_mut().insert(RETAIN.to_owned(), retain.clone())),
            None => drop(endpoint.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(RETAIN))),
        }
        endpoint
    }

    /// Returns the endpoint's entry for the interface.
    fn interface_entry(&self, assigned: &[AssignedAddress], pools: &PoolCache) -> EndpointIp {
        let mut ip = EndpointIp { interface: self.request.interface.to_string(), ..EndpointIp::default() };
        for assigned in assigned {
            let (net, pool) = (Some(assigned.net.to_string()), Some(assigned.pool.clone()));
            let cached = pools.get(&assigned.pool);
            let spec = cached.as_ref().map(|cached| &cached.spec);
            let gateway = spec.and_then(|spec| spec.gateway.clone()).filter(|gateway| !gateway.is_empty());
            match assigned.family() {
                Family::V4 => (ip.ipv4, ip.ipv4_pool, ip.ipv4_gateway) = (net, pool, gateway),
                Family::V6 => (ip.ipv6, ip.ipv6_pool, ip.ipv6_gateway) = (net, pool, gateway),
            }
            ip.vlan = spec.and_then(|spec| spec.vlan).unwrap_or(ip.vlan);
            ip.routes.extend(spec.into_iter().flat_map(|spec| spec.routes.iter().cloned()));
        }
        ip.routes.extend(self.routes.iter().cloned());
        ip.clean_gateway = Some(self.clean_gateway);
        ip
    }

    /// Returns the answer to the request, once `written` is on the API server and its claims are verified.
    pub(crate) fn allocation(&self, written: &SpiderEndpoint, displaced: Vec<IpAddr>) -> IpAllocation {
        let current = written.record().current.clone();
        let ip = current.ips.into_iter().find(|ip| ip.interface == self.request.interface.as_str());
        IpAllocation { ip: ip.unwrap_or_default(), generation: current.generation, mode: self.guard_mode, displaced }
    }
}

#[cfg(test)]
mod tests;
