//! Taking over what Spiderpool left: claims for the addresses that its endpoints and its pools' records hold.
//!
//! Runs before anything is collected and before any view is written. Until then agents allocate nothing from pools whose
//! status another IPAM wrote. Creating a claim decides, so running it again, or beside allocations, does no harm.

use std::{collections::HashSet, net::IpAddr};

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_api::{
    endpoint::{EndpointIp, HolderState, SpiderEndpoint},
    ippool::{Allocation, Allocations, SpiderIPPool},
    store::StoreError,
};
use holdfast_core::{id::PodName, pool::Family};
use kube::ResourceExt;

use super::{CONCURRENCY, Controller};
use crate::{owner::Owner, pools};

impl Controller {
    /// Creates the claims that are missing. Answers how many there were.
    pub(super) async fn import(&self) -> Result<usize, StoreError> {
        let endpoints = self.caches.endpoints.state();
        let claimed: HashSet<IpAddr> = self.caches.claims.state().iter().map(|claim| claim.spec.address).collect();
        let mut missing = Vec::new();
        let mut listed = HashSet::new();
        for endpoint in &endpoints {
            for (address, pool) in held(endpoint) {
                listed.insert(address);
                if !claimed.contains(&address) {
                    missing.push((address, pool, endpoint.pod()));
                }
            }
        }
        let claims = missing.len();
        stream::iter(missing)
            .map(Ok)
            .try_for_each_concurrent(CONCURRENCY, |(address, pool, endpoint)| async move {
                match self.store.create_claim(address, &pool, &endpoint).await {
                    Err(error) if !error.is_conflict() => Err(error),
                    _ => Ok(()),
                }
            })
            .await?;
        let mut records = 0;
        for pool in self.caches.pools.state().iter().filter(|pool| pools::is_foreign(pool)) {
            for (address, allocation) in records_of(pool) {
                if !listed.contains(&address) && !claimed.contains(&address) {
                    records += usize::from(self.import_record(pool, address, &allocation).await?);
                }
            }
        }
        Ok(claims + records)
    }

    /// A pool's record that no endpoint has: its pod gets an endpoint if it lives, or lists the address in the one it
    /// has. A record of a pod that is gone is a leak of old; the view that is written next drops it.
    async fn import_record(
        &self,
        pool: &SpiderIPPool,
        address: IpAddr,
        record: &Allocation,
    ) -> Result<bool, StoreError> {
        let Some((namespace, name)) = record.pod.split_once('/') else { return Ok(false) };
        let name = PodName::new(namespace, name);
        let (pod, endpoint) = tokio::try_join!(self.store.pod(&name), self.store.endpoint(&name))?;
        let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&record.pod_uid)) else {
            return Ok(false);
        };
        let (Ok(parsed), node) = (pools::parse(&pool.spec), pod.spec.as_ref().and_then(|spec| spec.node_name.clone()))
        else {
            return Ok(false);
        };
        match self.store.create_claim(address, &pool.name_any(), &name).await {
            Err(error) if !error.is_conflict() => return Err(error),
            _ => {}
        }
        let mut endpoint = endpoint.unwrap_or_else(|| SpiderEndpoint::for_pod(&name));
        let mut status = endpoint.status.take().unwrap_or_default();
        let owner = Owner::of(&pod);
        status.owner_controller_type = owner.kind;
        status.owner_controller_name = owner.name;
        status.owner_controller_uid = owner.uid;
        let current = &mut status.current;
        current.uid.clone_from(&record.pod_uid);
        current.node = node.unwrap_or_default();
        current.state = HolderState::Bound;
        let interface = if record.interface.is_empty() { "eth0" } else { &record.interface };
        if !current.ips.iter().any(|ip| ip.interface == interface) {
            current.ips.push(EndpointIp { interface: interface.to_owned(), ..EndpointIp::default() });
        }
        let net = parsed.with_prefix(address).to_string();
        if let Some(ip) = current.ips.iter_mut().find(|ip| ip.interface == interface) {
            match Family::of(address) {
                Family::V4 => (ip.ipv4, ip.ipv4_pool) = (Some(net), Some(pool.name_any())),
                Family::V6 => (ip.ipv6, ip.ipv6_pool) = (Some(net), Some(pool.name_any())),
            }
        }
        endpoint.status = Some(status);
        self.store.write_endpoint(&endpoint).await?;
        tracing::info!(pod = %name, %address, pool = pool.name_any(), "took over an address that only the pool's status had");
        Ok(true)
    }
}

/// The addresses that an endpoint lists, with their pools.
fn held(endpoint: &SpiderEndpoint) -> Vec<(IpAddr, String)> {
    let record = endpoint.record();
    let mut held = Vec::new();
    for ip in &record.current.ips {
        for net in ip.networks() {
            let pool = if net.addr().is_ipv4() { &ip.ipv4_pool } else { &ip.ipv6_pool };
            held.push((net.addr(), pool.clone().unwrap_or_default()));
        }
    }
    held
}

/// The records in a pool's status. What cannot be read is no record.
fn records_of(pool: &SpiderIPPool) -> Vec<(IpAddr, Allocation)> {
    let text = pool.status.as_ref().and_then(|status| status.allocated_ips.as_deref());
    let records: Allocations = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    records.into_iter().filter_map(|(address, record)| Some((address.parse().ok()?, record))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spiderpools_records_are_read() {
        let endpoint: SpiderEndpoint = serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint", "metadata": {"name": "web-0"},
            "status": {"current": {"uid": "u", "node": "n", "ips": [{
                "interface": "eth0", "ipv4": "10.0.0.1/24", "ipv4Pool": "a", "ipv6": "fd00::1/64", "ipv6Pool": "b",
                "vlan": 0, "cleanGateway": false
            }]}, "ownerControllerType": "StatefulSet", "ownerControllerName": "web"}
        }))
        .unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(held(&endpoint), [(ip("10.0.0.1"), "a".to_owned()), (ip("fd00::1"), "b".to_owned())]);
        let mut pool = SpiderIPPool::new("a", serde_json::from_value(json!({"subnet": "10.0.0.0/24"})).unwrap());
        assert!(!pools::is_foreign(&pool));
        pool.status = serde_json::from_value(
            json!({"allocatedIPs": r#"{"10.0.0.1":{"interface":"eth0","pod":"d/web-0","podUid":"u"},"x":{}}"#}),
        )
        .unwrap();
        assert!(pools::is_foreign(&pool));
        let records = records_of(&pool);
        assert_eq!((records.len(), records[0].1.pod.as_str()), (1, "d/web-0"));
    }
}
