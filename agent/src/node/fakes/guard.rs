//! The guard's maps in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{IfIndex, IfName},
};
use holdfast_guard::{Binding, BindingEntry, BindingState, DatapathError, GuardEvent, Link, LinkInfo, LinkRole};
use parking_lot::Mutex;

use super::journal::{Injected, Journal};
use crate::node::{backend::Guard, error::NodeError};

/// The number of the first link inside a pod.
const FIRST_INSIDE: u32 = 0x8000_0000;

/// The guard's maps.
pub struct FakeGuard {
    journal: Journal,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<IfIndex, Link>,
    bindings: BTreeMap<(IfIndex, IpAddr), Binding>,
    sandboxes: BTreeMap<u32, u64>,
    uplinks: BTreeSet<IfIndex>,
    inside: u32,
    lost: u64,
    no_tracepoint: bool,
}

impl From<Injected> for DatapathError {
    fn from(_: Injected) -> Self {
        Self::Missing("what was asked for: injected")
    }
}

impl FakeGuard {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, state: Mutex::default() }
    }

    /// Returns what a link may do with an address. None: it is not bound there.
    pub fn state_of(&self, link: IfIndex, address: IpAddr) -> Option<BindingState> {
        self.state.lock().bindings.get(&(link, address)).map(|binding| binding.state)
    }

    /// Writes an entry of the map of bindings, as an earlier agent or a failed write would have left it.
    pub fn put_binding(&self, entry: BindingEntry, state: BindingState) {
        self.state.lock().bindings.insert((entry.link, entry.address), Binding { entry, state });
    }

    /// Writes an entry of the map of links, as an earlier agent would have left it.
    pub fn put_link(&self, link: Link) {
        self.state.lock().links.insert(link.link, link);
    }

    /// Returns what the guard knows of a link.
    pub fn link(&self, link: IfIndex) -> Option<Link> {
        self.state.lock().links.get(&link).cloned()
    }

    /// Makes the ring's count of lost events grow.
    pub fn lose_event(&self) {
        self.state.lock().lost += 1;
    }

    /// Makes the kernel one that does not report the ends of processes.
    pub fn remove_tracepoint(&self) {
        self.state.lock().no_tracepoint = true;
    }

    /// Returns the uplinks that are watched.
    pub fn uplinks(&self) -> Vec<IfIndex> {
        self.state.lock().uplinks.iter().copied().collect()
    }

    fn put(&self, link: IfIndex, name: &IfName, info: LinkInfo, inside: bool) {
        let link = Link { link, name: name.clone(), role: LinkRole::Pod, inside, shared: false, info };
        self.put_link(link);
    }
}

#[async_trait]
impl Guard for FakeGuard {
    fn attach_pod_link(&self, link: IfIndex, name: &IfName, info: LinkInfo) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.attach {link}"))?;
        self.put(link, name, info, false);
        Ok(())
    }

    async fn attach_inside(&self, _netns: &Path, interface: &IfName, info: LinkInfo) -> Result<IfIndex, NodeError> {
        let attached = self.journal.call_async(format!("guard.attach_inside {interface}")).await;
        attached.map_err(DatapathError::from)?;
        let link = {
            let mut state = self.state.lock();
            state.inside += 1;
            IfIndex(FIRST_INSIDE + state.inside - 1)
        };
        self.put(link, interface, info, true);
        Ok(link)
    }

    fn detach_pod_link(&self, link: IfIndex, _name: &IfName) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.detach {link}"))?;
        let mut state = self.state.lock();
        state.links.remove(&link);
        state.bindings.retain(|(on, _), _| *on != link);
        Ok(())
    }

    fn attach_uplink(&self, link: IfIndex, _name: &IfName) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.attach_uplink {link}"))?;
        self.state.lock().uplinks.insert(link);
        Ok(())
    }

    fn attach_shared_uplink(&self, link: IfIndex, _name: &IfName) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.attach_shared_uplink {link}"))?;
        self.state.lock().uplinks.insert(link);
        Ok(())
    }

    fn set_mode(&self, link: IfIndex, mode: GuardMode) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.set_mode {link} {mode:?}"))?;
        if let Some(known) = self.state.lock().links.get_mut(&link) {
            known.info.mode = mode;
        }
        Ok(())
    }

    fn bind(&self, entry: &BindingEntry) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.bind {} {} {}", entry.link, entry.address, entry.generation))?;
        for ((link, address), binding) in &mut self.state.lock().bindings {
            if *address == entry.address && *link != entry.link {
                binding.state = BindingState::Stale;
            }
        }
        self.put_binding(*entry, BindingState::Current);
        Ok(())
    }

    fn mark_stale(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.mark_stale {link} {address}"))?;
        if let Some(binding) = self.state.lock().bindings.get_mut(&(link, address)) {
            binding.state = BindingState::Stale;
        }
        Ok(())
    }

    fn bindings(&self) -> Result<Vec<Binding>, DatapathError> {
        Ok(self.state.lock().bindings.values().copied().collect())
    }

    fn links(&self) -> Result<Vec<Link>, DatapathError> {
        Ok(self.state.lock().links.values().cloned().collect())
    }

    fn watch_sandbox(&self, pid: u32, container_tag: u64) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.watch_sandbox {pid}"))?;
        self.state.lock().sandboxes.insert(pid, container_tag);
        Ok(())
    }

    fn forget_sandbox(&self, pid: u32) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.forget_sandbox {pid}"))?;
        self.state.lock().sandboxes.remove(&pid);
        Ok(())
    }

    fn forget_sandbox_of(&self, pid: u32, container_tag: u64) -> Result<(), DatapathError> {
        self.journal.call(format!("guard.forget_sandbox {pid}"))?;
        let mut state = self.state.lock();
        if state.sandboxes.get(&pid) == Some(&container_tag) {
            state.sandboxes.remove(&pid);
        }
        Ok(())
    }

    fn sandboxes(&self) -> Result<Vec<(u32, u64)>, DatapathError> {
        Ok(self.state.lock().sandboxes.iter().map(|(pid, tag)| (*pid, *tag)).collect())
    }

    fn watches_sandboxes(&self) -> bool {
        !self.state.lock().no_tracepoint
    }

    fn events_lost(&self) -> Result<u64, DatapathError> {
        Ok(self.state.lock().lost)
    }

    fn age(&self, _event: &GuardEvent) -> Duration {
        Duration::ZERO
    }
}
