//! Import of another IPAM's records: claims for the addresses that Spiderpool's endpoints and pools hold.
//!
//! The import runs before anything is collected and before any pool's status is written. Until then, agents allocate
//! nothing from pools whose status another IPAM wrote. An address that cannot be imported holds its pool back, and no
//! other; the import is tried again. The creation of a claim decides, so a repeated import, or one beside allocations, is
//! safe.

use std::{
    collections::HashSet,
    fmt::{self, Display},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

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
use parking_lot::Mutex;

use crate::{
    context::Context,
    missing_claims::{addresses_with_pools, create_claim},
    reflectors::Reflectors,
};

/// The pause before the second try. Each pause doubles, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The import, and the pools that it holds back.
#[derive(Debug)]
pub(crate) struct Importer {
    held_back: HashSet<String>,
    pause: Duration,
}

impl Default for Importer {
    fn default() -> Self {
        Self { held_back: HashSet::new(), pause: MIN_PAUSE }
    }
}

impl Importer {
    /// Returns whether a pool has addresses in use that are not imported yet.
    pub(crate) fn holds_back(&self, pool: &str) -> bool {
        self.held_back.contains(pool)
    }

    /// Imports what is missing: at first from all pools, then from those that were held back. Returns the pause until the
    /// next try; none once no pool is held back.
    pub(crate) async fn run(&mut self, context: &Context) -> Option<Duration> {
        let before = std::mem::take(&mut self.held_back);
        let mut held_back = HashSet::new();
        // Endpoints first: where a pool's record differs, the endpoint is right.
        for mut unclaimed in unclaimed_addresses(&context.reflectors) {
            unclaimed.retain(|unclaimed| before.is_empty() || before.contains(&unclaimed.pool()));
            held_back.extend(import_each(context, unclaimed).await);
        }
        self.held_back = held_back;
        if before.iter().any(|pool| !self.held_back.contains(pool)) {
            // The statuses and claims of the pools that were held back have not been looked at.
            context.reflectors.changes().add_everything();
        }
        if self.held_back.is_empty() {
            return None;
        }
        let pause = self.pause;
        tracing::warn!(pools = ?self.held_back, ?pause, "not all addresses in use were imported; these pools wait");
        self.pause = (pause * 2).min(MAX_PAUSE);
        Some(pause)
    }
}

/// An address in use without a claim, as another IPAM recorded it.
#[derive(Debug)]
enum UnclaimedAddress {
    /// An endpoint lists it.
    Listed(Arc<SpiderEndpoint>, IpAddr, String),
    /// Only a pool's status names it.
    Recorded(Arc<SpiderIPPool>, IpAddr, Allocation),
}

impl Display for UnclaimedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(endpoint, address, pool) => write!(f, "{address} of pool {pool} for {}", endpoint.pod()),
            Self::Recorded(pool, address, record) => {
                write!(f, "{address} of pool {} for {}", pool.name_any(), record.pod)
            }
        }
    }
}

impl UnclaimedAddress {
    fn pool(&self) -> String {
        match self {
            Self::Listed(_, _, pool) => pool.clone(),
            Self::Recorded(pool, ..) => pool.name_any(),
        }
    }
}

/// Returns the addresses in use without a claim of their own: those that endpoints list, and those that only pools' records
/// name.
fn unclaimed_addresses(reflectors: &Reflectors) -> [Vec<UnclaimedAddress>; 2] {
    let (mut unlisted, mut unclaimed, mut listed) = (Vec::new(), Vec::new(), HashSet::new());
    for endpoint in reflectors.endpoints.state() {
        let name = endpoint.pod();
        let is_own = |claim: Arc<IPClaim>| claim.belongs_to(&name);
        for (address, pool) in addresses_with_pools(&endpoint, reflectors) {
            listed.insert((address, name.to_string()));
            if !reflectors.claim(&name_of(address)).is_some_and(is_own) {
                unclaimed.push(UnclaimedAddress::Listed(Arc::clone(&endpoint), address, pool));
            }
        }
    }
    for pool in reflectors.pools.state().into_iter().filter(|pool| pool.is_foreign()) {
        // A claim alone proves nothing: the try before may have ended after it.
        for (address, record) in records_of(&pool) {
            if !listed.contains(&(address, record.pod.clone())) {
                unlisted.push(UnclaimedAddress::Recorded(Arc::clone(&pool), address, record));
            }
        }
    }
    [unclaimed, unlisted]
}

/// Returns the pools of the addresses that could not be imported.
async fn import_each(context: &Context, unclaimed: Vec<UnclaimedAddress>) -> HashSet<String> {
    let failed = Mutex::new(HashSet::new());
    let failed_pools = &failed;
    let each = context.for_each(unclaimed, |unclaimed| async move {
        if let Err(error) = import(context, &unclaimed).await {
            context.outcomes.claim_failed(&unclaimed, &error);
            failed_pools.lock().insert(unclaimed.pool());
        }
    });
    each.await;
    failed.into_inner()
}

async fn import(context: &Context, unclaimed: &UnclaimedAddress) -> Result<(), StoreError> {
    match unclaimed {
        UnclaimedAddress::Listed(endpoint, address, pool) => {
            let foreign = context.reflectors.pool(pool).is_some_and(|pool| pool.is_foreign());
            let reason = if foreign { Reason::Imported } else { Reason::ClaimMissing };
            create_claim(context, endpoint, *address, pool, reason).await
        }
        UnclaimedAddress::Recorded(pool, address, record) => import_record(context, pool, *address, record).await,
    }
}

/// Imports a pool's record that no endpoint lists. If its pod lives, the pod gets an endpoint, or its endpoint lists the
/// address from now on. A record of a pod that is gone is an old leak: the pool's next status drops it.
async fn import_record(
    context: &Context,
    pool: &SpiderIPPool,
    address: IpAddr,
    record: &Allocation,
) -> Result<(), StoreError> {
    let (Some((namespace, name)), Ok(parsed)) = (record.pod.split_once('/'), pool.spec.parse()) else {
        return Ok(());
    };
    let (store, name) = (&context.store, PodName::new(namespace, name));
    // The endpoint is read first: the ADD of a pod that comes later writes it, and then the write below fails.
    let endpoint = store.endpoint(&name).await?;
    let is_named = |pod: &Pod| record.pod_uid.is_empty() || pod.metadata.uid.as_ref() == Some(&record.pod_uid);
    let Some(pod) = store.pod(&name).await?.filter(is_named) else { return Ok(()) };
    let mut endpoint = endpoint.unwrap_or_else(|| SpiderEndpoint::for_pod(&name));
    if let AcquireOutcome::HeldBy(holder) = store.acquire(address, &pool.name_any(), &name).await? {
        context.outcomes.address_taken(&name, pod.object_ref(&()), address, &holder);
        return Ok(());
    }
    let mut status = endpoint.status.take().unwrap_or_default();
    set_holder(&mut status, &pod);
    list_address(&mut status, record, address, &parsed, &pool.name_any());
    endpoint.status = Some(status);
    let written = store.write_endpoint(&endpoint).await?;
    context.outcomes.claim_created(&name, written.object_ref(&()), Reason::Imported, address);
    Ok(())
}

/// Makes `pod` the holder of the addresses that the endpoint lists.
fn set_holder(status: &mut EndpointStatus, pod: &Pod) {
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

/// Lists an address on the interface that the record names.
fn list_address(status: &mut EndpointStatus, record: &Allocation, address: IpAddr, parsed: &Pool, pool: &str) {
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

/// Returns the records in a pool's status. Text that cannot be parsed is no record.
fn records_of(pool: &SpiderIPPool) -> Vec<(IpAddr, Allocation)> {
    let text = pool.status.as_ref().and_then(|status| status.allocated_ips.as_deref());
    let records: Allocations = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    records.into_iter().filter_map(|(address, record)| Some((address.parse().ok()?, record))).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_api::ippool::IpPoolSpec;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn foreign_pool() -> SpiderIPPool {
        let mut pool = SpiderIPPool::new("a", serde_json::from_value(json!({"subnet": "10.0.0.0/24"})).unwrap());
        assert!(!pool.is_foreign());
        pool.status = serde_json::from_value(
            json!({"allocatedIPs": r#"{"10.0.0.1":{"interface":"eth0","pod":"d/web-0","podUid":"u"},"x":{}}"#}),
        )
        .unwrap();
        assert!(pool.is_foreign());
        pool
    }

    #[test]
    fn spiderpools_records_are_read() {
        let records = records_of(&foreign_pool());
        assert_eq!((records.len(), records[0].1.pod.as_str()), (1, "d/web-0"));
    }

    #[test]
    fn a_records_address_is_listed_beside_those_of_its_endpoint() {
        let spec: IpPoolSpec = serde_json::from_value(json!({"subnet": "fd00::/64"})).unwrap();
        let (parsed, mut status) = (spec.parse().unwrap(), EndpointStatus::default());
        status.current.ips = vec![EndpointIp { interface: "net1".into(), ..EndpointIp::default() }];
        let record: Allocation = serde_json::from_value(json!({"pod": "d/a"})).unwrap();
        list_address(&mut status, &record, "fd00::7".parse().unwrap(), &parsed, "six");
        let ips: Vec<_> = status.current.ips.iter().map(|ip| (ip.interface.as_str(), ip.ipv6.as_deref())).collect();
        assert_eq!(ips, [("net1", None), ("eth0", Some("fd00::7/64"))]);
    }

    #[test]
    fn an_address_is_imported_from_its_endpoint_if_one_lists_it_and_from_its_pool_if_none_does() {
        let (reflectors, mut writers) = Reflectors::new();
        writers.pools.apply_watcher_event(&Event::Apply(foreign_pool()));
        let texts = |reflectors: &Reflectors| {
            unclaimed_addresses(reflectors).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let text = "10.0.0.1 of pool a for d/web-0".to_owned();
        assert_eq!(texts(&reflectors), [vec![], vec![text.clone()]]);
        let pod = PodName::new("d", "web-0");
        let mut endpoint = SpiderEndpoint::for_pod(&pod);
        let ip = EndpointIp { ipv4: Some("10.0.0.1/24".into()), ipv4_pool: Some("a".into()), ..EndpointIp::default() };
        let mut status = EndpointStatus::default();
        status.current.ips = vec![ip];
        endpoint.status = Some(status);
        writers.endpoints.apply_watcher_event(&Event::Apply(endpoint));
        assert_eq!(texts(&reflectors), [vec![text], vec![]]);
        let claim = IPClaim::held("10.0.0.1".parse().unwrap(), "a", &pod);
        writers.claims.apply_watcher_event(&Event::Apply(claim));
        assert_eq!(texts(&reflectors), [vec![""; 0], vec![]]);
    }
}
