//! Links in memory.

use std::{collections::BTreeMap, net::IpAddr};

use async_trait::async_trait;
use holdfast_core::{
    id::{IfIndex, IfName},
    mac::Mac,
};
use holdfast_net::{ConfiguredLink, HostLink, LinkSpec, NetError, PodLink, PodNet, Uplink};
use parking_lot::Mutex;

use super::journal::{Injected, Journal};
use crate::node::backend::Links;

/// The index of the first link. The uplink has the one before it.
const FIRST_INDEX: u32 = 11;

/// The node's links.
pub struct FakeLinks {
    journal: Journal,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<IfIndex, HostLink>,
    made: u32,
}

impl From<Injected> for NetError {
    fn from(_: Injected) -> Self {
        Self::Worker("injected".to_owned())
    }
}

impl FakeLinks {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, state: Mutex::default() }
    }

    /// Makes a link that is there already, leading `addresses` to it, as an earlier agent would have left it. Returns
    /// its index.
    pub fn put(&self, spec: &LinkSpec, addresses: &[IpAddr]) -> IfIndex {
        let mut state = self.state.lock();
        let index = IfIndex(FIRST_INDEX + state.made);
        state.made += 1;
        let (pod, container, ifname) = (Some(spec.pod.clone()), spec.container.clone(), spec.ifname.clone());
        let name = container.host_link(&ifname);
        let pod_mac = Mac::of_pod(&name);
        let host_mac = Mac([2, 0, 0, 0, 0, 1]);
        let addresses = addresses.to_vec();
        state.links.insert(index, HostLink { name, index, host_mac, pod_mac, container, ifname, pod, addresses });
        index
    }

    /// Takes a link away, as the end of a pod's namespace does.
    pub fn vanish(&self, index: IfIndex) {
        self.state.lock().links.remove(&index);
    }

    /// Returns the addresses that the node routes to a link. None: there is no such link.
    pub fn routed(&self, index: IfIndex) -> Option<Vec<IpAddr>> {
        self.state.lock().links.get(&index).map(|link| link.addresses.clone())
    }

    async fn call(&self, verb: &str, link: Option<&HostLink>) -> Result<(), NetError> {
        let of = link.map_or("of no link".to_owned(), |link| format!("{} {}", link.container, link.ifname));
        Ok(self.journal.call_async(format!("links.{verb} {of}")).await?)
    }

    fn by_name(&self, name: &IfName) -> Option<HostLink> {
        self.state.lock().links.values().find(|link| link.name == *name).cloned()
    }

    /// An address leads to one link at a time.
    fn lead(&self, to: IfIndex, addresses: &[IpAddr]) {
        let mut state = self.state.lock();
        for link in state.links.values_mut() {
            link.addresses.retain(|address| !addresses.contains(address));
            if link.index == to {
                link.addresses.extend(addresses);
            }
        }
    }
}

fn uplink() -> Uplink {
    Uplink {
        name: "eth0".parse().unwrap_or_else(|_| unreachable!("a name")),
        index: IfIndex(FIRST_INDEX - 1),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
    }
}

#[async_trait]
impl Links for FakeLinks {
    async fn create(&self, spec: &LinkSpec) -> Result<PodLink, NetError> {
        self.journal.call_async(format!("links.create {} {}", spec.container, spec.ifname)).await?;
        let name = spec.container.host_link(&spec.ifname);
        let host_index = self.by_name(&name).map_or_else(|| self.put(spec, &[]), |link| link.index);
        Ok(PodLink {
            spec: spec.clone(),
            host_index,
            host_mac: Mac([2, 0, 0, 0, 0, 1]),
            pod_index: IfIndex(2),
            pod_mac: Mac::of_pod(&name),
            host_name: name,
            mtu: 1500,
        })
    }

    async fn configure(&self, link: &PodLink, _net: &PodNet) -> Result<ConfiguredLink, NetError> {
        self.call("configure", self.by_name(&link.host_name).as_ref()).await?;
        Ok(ConfiguredLink { uplink: uplink(), mtu: 1500 })
    }

    async fn advertise(&self, link: &PodLink, net: &PodNet, _uplink: &Uplink) -> Result<(), NetError> {
        self.call("advertise", self.by_name(&link.host_name).as_ref()).await?;
        self.lead(link.host_index, &net.ips().collect::<Vec<_>>());
        Ok(())
    }

    async fn readvertise(&self, link: &HostLink, addresses: &[IpAddr]) -> Result<(), NetError> {
        self.call("readvertise", Some(link)).await?;
        self.lead(link.index, addresses);
        Ok(())
    }

    async fn withdraw(&self, host_name: &IfName) -> Result<Vec<IpAddr>, NetError> {
        self.call("withdraw", self.by_name(host_name).as_ref()).await?;
        let mut state = self.state.lock();
        let link = state.links.values_mut().find(|link| link.name == *host_name);
        Ok(link.map(|link| std::mem::take(&mut link.addresses)).unwrap_or_default())
    }

    async fn delete(&self, host_name: &IfName) -> Result<(), NetError> {
        self.call("delete", self.by_name(host_name).as_ref()).await?;
        self.state.lock().links.retain(|_, link| link.name != *host_name);
        Ok(())
    }

    async fn wait_deleted(&self, _host_name: &IfName) -> Result<(), NetError> {
        Ok(self.journal.call_async("links.wait_deleted".to_owned()).await?)
    }

    async fn check(&self, spec: &LinkSpec, net: &PodNet) -> Result<(), NetError> {
        self.journal.call_async(format!("links.check {} {}", spec.container, spec.ifname)).await?;
        let link = self.by_name(&spec.container.host_link(&spec.ifname));
        let missing: Vec<_> = net
            .ips()
            .filter(|address| !link.as_ref().is_some_and(|link| link.addresses.contains(address)))
            .map(|address| format!("no route to {address}"))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(NetError::Drift { pod: spec.pod.clone(), missing }) }
    }

    async fn links(&self) -> Result<Vec<HostLink>, NetError> {
        Ok(self.state.lock().links.values().cloned().collect())
    }

    async fn link_by_index(&self, index: IfIndex) -> Result<Option<HostLink>, NetError> {
        Ok(self.state.lock().links.get(&index).cloned())
    }

    async fn uplink(&self, _net: &PodNet) -> Result<Uplink, NetError> {
        Ok(uplink())
    }

    async fn prune_proxies(&self) -> Result<Vec<IpAddr>, NetError> {
        self.journal.call_async("links.prune_proxies".to_owned()).await?;
        Ok(Vec::new())
    }
}
