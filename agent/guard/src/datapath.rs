//! The guard's handle, with all operations of the agent.

use std::{collections::HashSet, net::IpAddr, os::fd::BorrowedFd, sync::Arc};

use aya::maps::MapError;
use holdfast_abi::{META_LAYOUT, Sandbox};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{IfIndex, IfName},
};
use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    config::Config,
    counters::Counters,
    entries::{Binding, BindingEntry, Link, LinkInfo, LinkRole},
    error::DatapathError,
    events::Events,
    hook::Hook,
    load::{self, LOGS},
    logs::Logs,
    maps::{self, Maps, failed, removed},
    pins::Pins,
    sandbox,
    state::State,
};

/// The guard's handle. Clones share one guard; dropping the last one leaves everything in force.
#[derive(Clone)]
pub struct Datapath {
    state: Arc<Mutex<State>>,
}

impl Datapath {
    /// Loads the guard, or adopts what an earlier agent left pinned under [`Config::bpffs`].
    ///
    /// Removes links whose interface is gone, with their bindings; swaps the programs of all others for this agent's, each
    /// in one atomic step. If a crash left an address with two holders, fences the older.
    pub fn open(config: &Config) -> Result<(Self, Events), DatapathError> {
        let object = load::object(config)?;
        let pins = Pins::open(&config.bpffs)?;
        maps::check_layout(&pins)?;
        let mut programs = load::load(&object, &pins, config.logs, None)?;
        let mut maps = Maps::open(&pins)?;
        maps.meta.set(META_LAYOUT, u64::from(holdfast_abi::LAYOUT_VERSION), 0).map_err(maps::failed("META"))?;
        let events = Events::open(&pins)?;
        let watches_sandboxes = sandbox::attach(&mut programs, &pins);
        let (hook, logs) = (Hook::choose(config.clsact), config.logs);
        let mut state = State { pins, hook, object, programs, maps, attached: HashSet::new(), watches_sandboxes, logs };
        state.adopt()?;
        Ok((Self { state: Arc::new(Mutex::new(state)) }, events))
    }

    /// Attaches the guard to the host side of a pod's link, in both directions. Repeating it is free, and updates the link's
    /// facts.
    pub fn attach_pod_link(&self, link: IfIndex, ifname: &IfName, value: LinkInfo) -> Result<(), DatapathError> {
        let mut state = self.state();
        // Before the first packet: without its link's value a program enforces, even where it should only observe.
        state.set_link(link, ifname, LinkRole::Pod, value, 0)?;
        state.attach(link, ifname, LinkRole::Pod, false)
    }

    /// Sets the fate of foreign addresses on a guarded link. No error if there is no such link.
    pub fn set_mode(&self, link: IfIndex, mode: GuardMode) -> Result<(), DatapathError> {
        let mut state = self.state();
        let known = state.maps.links()?.into_iter().find(|known| known.link == link);
        let Some(known) = known else { return Ok(()) };
        state.set_link(link, &known.name, known.role, LinkInfo { mode, ..known.info }, known.flags())
    }

    /// Detaches the guard from a link. The bindings go first, so that the interface passes nothing, rather than everything,
    /// until the kernel has detached the programs. No error if there is nothing (left).
    pub fn detach_pod_link(&self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        self.state().detach(link, ifname)
    }

    /// Binds the address to the link. Make before break: the new binding is CURRENT before any other link's becomes STALE,
    /// so that at each moment one holder's packets pass.
    pub fn bind(&self, entry: &BindingEntry) -> Result<(), DatapathError> {
        let mut state = self.state();
        let maps = &mut state.maps;
        let others: Vec<IfIndex> = maps.holders(entry.address).filter(|link| *link != entry.link).collect();
        maps.bind(entry)?;
        let owned = maps.own(entry);
        others.into_iter().map(|link| maps.fence(link, entry.address)).fold(owned, Result::and)
    }

    /// Removes the binding: the address is then foreign to the link. No error if there is none.
    pub fn unbind(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.maps.disown(link, address)?;
        state.maps.remove_binding(link, address)
    }

    /// Fences the address on this link. No error if it is not bound there.
    pub fn mark_stale(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        self.state().maps.disown_and_fence(link, address)
    }

    /// Returns all bindings, as the kernel has them.
    pub fn bindings(&self) -> Result<Vec<Binding>, DatapathError> {
        self.state().maps.bindings()
    }

    /// Returns all guarded links, of pods and uplinks.
    pub fn links(&self) -> Result<Vec<Link>, DatapathError> {
        self.state().maps.links()
    }

    /// Sets the managed pools: the guard judges only addresses in them. Returns the number of entries that were added,
    /// changed or removed.
    pub fn set_pools(&self, pools: &[(IpNet, u32)]) -> Result<usize, DatapathError> {
        self.state().maps.set_pools(pools)
    }

    /// Returns all counts since the maps were made, summed over CPUs.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        self.state().maps.counters()
    }

    /// Limits the binding to the deadline of a lease's slot, or lifts the limit. A new generation begins without a lease. No
    /// error if there is no such binding.
    pub fn lease(&self, link: IfIndex, address: IpAddr, slot: Option<u16>) -> Result<(), DatapathError> {
        self.state().maps.lease(link, address, slot)
    }

    /// Sets the deadline of leased bindings, in nanoseconds of `CLOCK_BOOTTIME`.
    pub fn set_lease(&self, slot: u16, deadline_ns: u64) -> Result<(), DatapathError> {
        self.state().maps.set_lease(slot, deadline_ns)
    }

    /// Listens on an uplink for foreign hosts that claim addresses bound here. Repeating it is free.
    pub fn attach_uplink(&self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        self.state().attach_uplink(link, ifname)
    }

    /// As [`Self::attach_uplink`], for the parent interface of a link inside a pod (macvlan's master), where the guard also
    /// judges what pods send past the guard inside them. This ends with the last link inside a pod: call it after each of
    /// them is attached. Repeating it is free.
    pub fn attach_shared_uplink(&self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        self.state().attach_shared_uplink(link, ifname)
    }

    /// Attaches the guard to an interface inside a pod's network namespace. Returns the number of the link in bindings and
    /// events. The pinned link is out of the pod's reach.
    ///
    /// Below Linux 6.6 it is a filter of a qdisc, which a pod with `CAP_NET_ADMIN` can remove, and which later agents
    /// leave as it is: no pin leads to it.
    pub fn attach_inside(
        &self,
        netns: BorrowedFd<'_>,
        ifname: &IfName,
        value: LinkInfo,
    ) -> Result<IfIndex, DatapathError> {
        self.state().guard_pod_netns(netns, ifname, value)
    }

    /// Returns whether the kernel reports the end of watched sandboxes; if not, use [`sandbox_ended`](crate::sandbox_ended).
    pub fn watches_sandboxes(&self) -> bool {
        self.state().watches_sandboxes
    }

    /// Reports the end of a process as the death of the container's sandbox. `process` is the ID that the node knows it
    /// by. The caller has to check afterwards that the process still runs: it may have ended before.
    ///
    /// It stays watched after the report, until [`Self::forget_sandbox`] says that the death has been dealt with: an agent
    /// that ends before leaves it for the next one to find.
    pub fn watch_sandbox(&self, process: u32, container_tag: u64) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.maps.sandboxes.insert(process, Sandbox { container_tag }, 0).map_err(failed("SANDBOXES"))
    }

    /// Stops watching a process. No error if it was not watched (any more).
    pub fn forget_sandbox(&self, process: u32) -> Result<(), DatapathError> {
        removed("SANDBOXES", self.state().maps.sandboxes.remove(&process))
    }

    /// As [`Self::forget_sandbox`], unless the process is watched for another container by now: process IDs come again.
    pub fn forget_sandbox_of(&self, process: u32, container_tag: u64) -> Result<(), DatapathError> {
        let mut state = self.state();
        match state.maps.sandboxes.get(&process, 0) {
            Ok(sandbox) if sandbox.container_tag == container_tag => {
                removed("SANDBOXES", state.maps.sandboxes.remove(&process))
            }
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("SANDBOXES")(error)),
        }
    }

    /// Processes that are watched, with their containers' tags. One of them that no longer exists ended without anybody
    /// having dealt with it: the event found no room, or the agent that heard it ended first.
    pub fn sandboxes(&self) -> Result<Vec<(u32, u64)>, DatapathError> {
        let state = self.state();
        let entries = state.maps.sandboxes.iter();
        entries
            .map(|entry| entry.map(|(process, value)| (process, value.container_tag)).map_err(failed("SANDBOXES")))
            .collect()
    }

    /// Returns the programs' log; `None` if [`Config::logs`] is off or the log is taken already.
    pub fn logs(&self) -> Result<Option<Logs>, DatapathError> {
        let mut state = self.state();
        if !state.logs {
            return Ok(None);
        }
        match state.programs.logger() {
            Ok(logger) => Ok(Some(Logs(logger))),
            Err(aya_log::Error::MapNotFound) => Ok(None),
            Err(source) => Err(DatapathError::Logs { map: LOGS, source }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Datapath").field("bpffs", &state.pins.root()).field("hook", &state.hook).finish_non_exhaustive()
    }
}
