//! Taking over what Spiderpool left: claims for the addresses that its endpoints and its pools' records hold.
//!
//! Runs before anything is collected and before any view is written. Until then agents allocate nothing from pools whose
//! status another IPAM wrote. What cannot be taken over holds its pool back, and no other: it is tried again. Creating a
//! claim decides, so running it again, or beside allocations, does no harm.

use std::{
    collections::HashSet,
    fmt::{self, Display},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use holdfast_api::{
    claim::{IPClaim, name_of},
    endpoint::{EndpointIp, EndpointStatus, HolderState, SpiderEndpoint},
    ippool::{Allocation, Allocations, SpiderIPPool},
    owner::Owner,
    store::{AcquireOutcome, StoreError},
};
use holdfast_core::{
    collect::Reason,
    id::PodName,
    pool::{Family, Pool},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use super::{CONCURRENCY, Controller, Requeue};

/// Between two tries at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An address that somebody uses, as another IPAM recorded it.
enum Found {
    /// In an endpoint.
    Listed(Arc<SpiderEndpoint>, IpAddr, String),
    /// In a pool's status alone.
    Recorded(Arc<SpiderIPPool>, IpAddr, Allocation),
}

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(endpoint, address, pool) => write!(f, "{address} of pool {pool} for {}", endpoint.pod()),
            Self::Recorded(pool, address, record) => {
                write!(f, "{address} of pool {} for {}", pool.name_any(), record.pod)
            }
        }
    }
}

impl Found {
    fn pool(&self) -> String {
        match self {
            Self::Listed(_, _, pool) => pool.clone(),
            Self::Recorded(pool, ..) => pool.name_any(),
        }
    }
}

impl Controller {
    /// Creates the claims that are missing. Pools of which not everything could be taken over are held back, and looked
    /// at again later.
    pub(super) async fn import(&mut self, now: Duration) {
        let before = std::mem::take(&mut self.state.held_back);
        let mut held_back = HashSet::new();
        // Endpoints first: they are what counts where a pool's record says otherwise.
        for mut found in self.found() {
            found.retain(|found| before.is_empty() || before.contains(&found.pool()));
            held_back.extend(self.take_over_each(found).await);
        }
        self.state.held_back = held_back;
        if !self.state.held_back.is_empty() {
            let (pause, pools) = (self.state.import_pause, &self.state.held_back);
            tracing::warn!(?pools, ?pause, "not all addresses in use were taken over; these pools wait");
            self.state.import_pause = (pause * 2).min(LONGEST_PAUSE);
            self.state.delay_queue.set(now + pause, Requeue::Import);
        }
        if before.iter().any(|pool| !self.state.held_back.contains(pool)) {
            // They have waited for their first views, and their claims for a look.
            self.reflectors.changes().add_everything();
        }
    }

    /// Answers the pools of what could not be taken over.
    async fn take_over_each(&self, found: Vec<Found>) -> HashSet<String> {
        let failed = Mutex::new(HashSet::new());
        let each = stream::iter(found).for_each_concurrent(CONCURRENCY, |found| {
            let failed = &failed;
            async move {
                let outcome = self.take_over(&found).await;
                self.heartbeat.progress();
                if let Err(error) = outcome {
                    self.outcomes.not_claimed(&found, &error);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).insert(found.pool());
                }
            }
        });
        each.await;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is in use and has no claim of its own: what endpoints list, and what is in pools' records alone.
    fn found(&self) -> [Vec<Found>; 2] {
        let (mut missing, mut recorded, mut listed) = (Vec::new(), Vec::new(), HashSet::new());
        for endpoint in self.reflectors.endpoints.state() {
            let name = endpoint.pod();
            let has = |claim: Arc<IPClaim>| claim.belongs_to(&name);
            for (address, pool) in self.listed(&endpoint) {
                listed.insert((address, name.to_string()));
                if !self.reflectors.claim(&name_of(address)).is_some_and(has) {
                    missing.push(Found::Listed(Arc::clone(&endpoint), address, pool));
                }
            }
        }
        for pool in self.reflectors.pools.state().into_iter().filter(|pool| pool.is_foreign()) {
            // A claim alone proves nothing: the try before may have ended after it.
            for (address, record) in records_of(&pool) {
                if !listed.contains(&(address, record.pod.clone())) {
                    recorded.push(Found::Recorded(Arc::clone(&pool), address, record));
                }
            }
        }
        [missing, recorded]
    }

    async fn take_over(&self, found: &Found) -> Result<(), StoreError> {
        match found {
            Found::Listed(endpoint, address, pool) => {
                let foreign = self.reflectors.pool(pool).is_some_and(|pool| pool.is_foreign());
                let reason = if foreign { Reason::Imported } else { Reason::ClaimMissing };
                self.claim_listed(endpoint, *address, pool, reason).await.map(drop)
            }
            Found::Recorded(pool, address, record) => self.import_record(pool, *address, record).await,
        }
    }

    /// A pool's record that no endpoint has: its pod gets an endpoint if it lives, or lists the address in the one it
    /// has. A record of a pod that is gone is a leak of old; the view that is written next drops it.
    async fn import_record(&self, pool: &SpiderIPPool, address: IpAddr, record: &Allocation) -> Result<(), StoreError> {
        let (Some((namespace, name)), Ok(parsed)) = (record.pod.split_once('/'), pool.spec.parse()) else {
            return Ok(());
        };
        let name = PodName::new(namespace, name);
        // The endpoint first: an ADD of a pod that comes later writes it, and then the write below fails.
        let endpoint = self.store.endpoint(&name).await?;
        let named = |pod: &Pod| record.pod_uid.is_empty() || pod.metadata.uid.as_ref() == Some(&record.pod_uid);
        let Some(pod) = self.store.pod(&name).await?.filter(named) else { return Ok(()) };
        let mut endpoint = endpoint.unwrap_or_else(|| SpiderEndpoint::for_pod(&name));
        if let AcquireOutcome::HeldBy(holder) = self.store.acquire(address, &pool.name_any(), &name).await? {
            self.outcomes.taken(&name, pod.object_ref(&()), address, &holder);
            return Ok(());
        }
        let mut status = endpoint.status.take().unwrap_or_default();
        bind(&mut status, &pod);
        list(&mut status, record, address, &parsed, &pool.name_any());
        endpoint.status = Some(status);
        let written = self.store.write_endpoint(&endpoint).await?;
        self.outcomes.claimed(&name, written.object_ref(&()), Reason::Imported, address);
        Ok(())
    }
}

/// Names `pod` as the holder of what the endpoint lists.
fn bind(status: &mut EndpointStatus, pod: &Pod) {
    let owner = Owner::of(pod);
    status.owner_controller_type = owner.kind;
    status.owner_controller_name = owner.name;
    status.owner_controller_uid = owner.uid;
    let uid = pod.uid().unwrap_or_default();
    if status.current.uid != uid {
        status.end_holder(Timestamp::now(), Reason::Imported.as_str());
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let current = &mut status.current;
    (current.uid, current.node) = (uid, node.unwrap_or_default());
    current.state = HolderState::Bound;
}

/// Lists an address where the record has it.
fn list(status: &mut EndpointStatus, record: &Allocation, address: IpAddr, parsed: &Pool, pool: &str) {
    let ips = &mut status.current.ips;
    let interface = if record.interface.is_empty() { "eth0" } else { &record.interface };
    if !ips.iter().any(|ip| ip.interface == interface) {
        ips.push(EndpointIp { interface: interface.to_owned(), ..EndpointIp::default() });
    }
    let (net, pool) = (Some(parsed.with_prefix(address).to_string()), Some(pool.to_owned()));
    if let Some(ip) = ips.iter_mut().find(|ip| ip.interface == interface) {
        match Family::of(address) {
            Family::V4 => (ip.ipv4, ip.ipv4_pool) = (net, pool),
            Family::V6 => (ip.ipv6, ip.ipv6_pool) = (net, pool),
        }
    }
}

/// The records in a pool's status. What cannot be read is no record.
fn records_of(pool: &SpiderIPPool) -> Vec<(IpAddr, Allocation)> {
    let text = pool.status.as_ref().and_then(|status| status.allocated_ips.as_deref());
    let records: Allocations = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    records.into_iter().filter_map(|(address, record)| Some((address.parse().ok()?, record))).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_api::ippool::IpPoolSpec;
    use serde_json::json;

    use super::*;

    #[test]
    fn spiderpools_records_are_read() {
        let mut pool = SpiderIPPool::new("a", serde_json::from_value(json!({"subnet": "10.0.0.0/24"})).unwrap());
        assert!(!pool.is_foreign());
        pool.status = serde_json::from_value(
            json!({"allocatedIPs": r#"{"10.0.0.1":{"interface":"eth0","pod":"d/web-0","podUid":"u"},"x":{}}"#}),
        )
        .unwrap();
        assert!(pool.is_foreign());
        let records = records_of(&pool);
        assert_eq!((records.len(), records[0].1.pod.as_str()), (1, "d/web-0"));
    }

    #[test]
    fn a_records_address_stands_beside_what_its_endpoint_lists() {
        let spec: IpPoolSpec = serde_json::from_value(json!({"subnet": "fd00::/64"})).unwrap();
        let (parsed, mut status) = (spec.parse().unwrap(), EndpointStatus::default());
        status.current.ips = vec![EndpointIp { interface: "net1".into(), ..EndpointIp::default() }];
        let record: Allocation = serde_json::from_value(json!({"pod": "d/a"})).unwrap();
        list(&mut status, &record, "fd00::7".parse().unwrap(), &parsed, "six");
        let ips: Vec<_> = status.current.ips.iter().map(|ip| (ip.interface.as_str(), ip.ipv6.as_deref())).collect();
        assert_eq!(ips, [("net1", None), ("eth0", Some("fd00::7/64"))]);
    }
}
