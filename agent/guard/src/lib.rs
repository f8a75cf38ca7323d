//! The guard's user side: loads the programs, pins them, keeps their maps, reads their events.
//!
//! ```text
//! open ──▶ bpffs? ──▶ layout of pinned maps? ──▶ load ──▶ adopt pinned links (swap program) ──▶ prune what is gone
//!      ──▶ settle: one holder for each address
//! bind ──▶ BINDINGS[link, address] = CURRENT ──▶ OWNERS[address] ──▶ every other link's entry = STALE
//! EVENTS ──▶ Events::next ──▶ GuardEvent
//! ```
//!
//! Everything that enforces is pinned under one folder of bpffs: `maps/` and `links/`. It goes on while no agent runs,
//! and an agent that starts adopts it. Below Linux 6.6 the programs are filters of a clsact qdisc, which live as long
//! as their interface; `LINKS` tells the next agent where they are.
//!
//! All methods are synchronous: each is a handful of system calls of microseconds. They act on the network namespace
//! of the calling thread, which is the node's.

mod attach;
mod counters;
mod entries;
mod error;
mod events;
mod inside;
mod load;
mod logs;
mod maps;
mod metrics;
mod pins;
mod sandbox;
mod settle;
mod uplink;

use std::{
    collections::HashSet,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use holdfast_abi::META_LAYOUT;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{IfIndex, IfName},
};
use ipnet::IpNet;

pub use self::sandbox::ended as sandbox_ended;
use self::{attach::Hook, load::Programs, maps::Maps, pins::Pins};
pub use self::{
    counters::Counters,
    entries::{Binding, BindingEntry, BindingState, Link, LinkInfo, LinkRole},
    error::DatapathError,
    events::{EventKind, Events, GuardEvent, Holder, Via},
    logs::Logs,
    metrics::GuardMetrics,
};

/// Where and how the guard lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of bpffs that everything is pinned under.
    pub bpffs: PathBuf,
    /// An object file to load in place of the embedded one.
    pub object: Option<PathBuf>,
    /// Whether the programs log what is no event.
    pub logs: bool,
    /// Use a clsact qdisc even where the kernel has tcx.
    pub clsact: bool,
}

impl Config {
    /// The embedded object, pinned under `bpffs`, attached in the best way that the kernel has. The programs log if
    /// tracing's filter wants their lines, whose target is `holdfast::guard`, at debug level.
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        let logs = tracing::enabled!(target: "holdfast::guard", tracing::Level::DEBUG);
        Self { bpffs: bpffs.into(), object: None, logs, clsact: false }
    }
}

/// The guard's handle. Clones share one guard; dropping the last one leaves everything in force.
#[derive(Clone)]
pub struct Datapath {
    state: Arc<Mutex<State>>,
}

struct State {
    pins: Pins,
    hook: Hook,
    object: Vec<u8>,
    programs: Programs,
    maps: Maps,
    /// Links known to carry their programs, so that attaching again costs nothing.
    attached: HashSet<(IfIndex, IfName)>,
    watches_sandboxes: bool,
    logs: bool,
}

impl Datapath {
    /// Loads the guard, or adopts what an earlier agent left under [`Config::bpffs`].
    ///
    /// Of what is there, links whose interface is gone are removed, with their bindings; all others get this agent's
    /// programs in one atomic step each. Of an address that an earlier agent's end left with two holders, the older one is
    /// fenced off.
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

    /// Puts the guard on the host side of a pod's link, both ways. Doing it again is free, and updates what is known
    /// of the link.
    pub fn attach_pod_link(&self, link: IfIndex, ifname: &IfName, value: LinkInfo) -> Result<(), DatapathError> {
        let mut state = self.state();
        // Before the first packet: a program without its link's value would enforce what should only be observed.
        state.set_link(link, ifname, LinkRole::Pod, value, 0)?;
        state.attach(link, ifname, LinkRole::Pod, false)
    }

    /// Sets what happens to foreign addresses on a link that the guard sits on. No error if there is no such link.
    pub fn set_mode(&self, link: IfIndex, mode: GuardMode) -> Result<(), DatapathError> {
        let mut state = self.state();
        let known = state.maps.links()?.into_iter().find(|known| known.link == link);
        let Some(known) = known else { return Ok(()) };
        state.set_link(link, &known.name, known.role, LinkInfo { mode, ..known.info }, known.flags())
    }

    /// Takes the guard off a link: its bindings go first, so that while the interface still exists it passes nothing
    /// rather than everything. The kernel takes the programs off a moment later. No error if there is nothing (left).
    pub fn detach_pod_link(&self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        self.state().detach(link, ifname)
    }

    /// Gives the address to the link. Make before break: the new binding is CURRENT before any other link's becomes
    /// STALE, and there is no moment at which nobody's packets pass.
    pub fn bind(&self, entry: &BindingEntry) -> Result<(), DatapathError> {
        let mut state = self.state();
        let maps = &mut state.maps;
        let others: Vec<IfIndex> = maps.holders(entry.address).filter(|link| *link != entry.link).collect();
        maps.bind(entry)?;
        let owned = maps.own(entry);
        others.into_iter().map(|link| maps.fence(link, entry.address)).fold(owned, Result::and)
    }

    /// Forgets the binding: to the link, the address is then like any other one. No error if there is none.
    pub fn unbind(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.maps.disown(link, address)?;
        state.maps.remove_binding(link, address)
    }

    /// Fences the address off on this link. No error if it is not bound there.
    pub fn mark_stale(&self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        self.state().maps.disown_and_fence(link, address)
    }

    /// All bindings, as the kernel has them.
    pub fn bindings(&self) -> Result<Vec<Binding>, DatapathError> {
        self.state().maps.bindings()
    }

    /// All links the guard sits on, pods' and uplinks.
    pub fn links(&self) -> Result<Vec<Link>, DatapathError> {
        self.state().maps.links()
    }

    /// Sets the managed pools: only addresses in them are ever judged. What is there already is left alone; gives the
    /// number of entries that were added, changed or removed.
    pub fn set_pools(&self, pools: &[(IpNet, u32)]) -> Result<usize, DatapathError> {
        self.state().maps.set_pools(pools)
    }

    /// Everything counted since the maps were made, summed over CPUs.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        self.state().maps.counters()
    }

    /// Makes the binding good only until the deadline of a lease's slot, or for good again. A new generation begins
    /// without a lease. No error if there is no such binding.
    pub fn lease(&self, link: IfIndex, address: IpAddr, slot: Option<u16>) -> Result<(), DatapathError> {
        self.state().maps.lease(link, address, slot)
    }

    /// Sets until when leased bindings are good, in nanoseconds of `CLOCK_BOOTTIME`.
    pub fn set_lease(&self, slot: u16, deadline_ns: u64) -> Result<(), DatapathError> {
        self.state().maps.set_lease(slot, deadline_ns)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every map is consistent after every single write, so a panic elsewhere leaves nothing half done that matters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Datapath").field("bpffs", &state.pins.root()).field("hook", &state.hook).finish_non_exhaustive()
    }
}
