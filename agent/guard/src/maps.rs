//! The maps, typed, and the rules that hold between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key};
use holdfast_abi::{
    self as abi, Address, BindingKey, Counter, FLAG_LEASED, LAYOUT_VERSION, Lease, META_LAYOUT, MacKey, Owner, Pool,
    STATE_STALE, Sandbox,
};
use holdfast_core::{id::IfIndex, mac::Mac};
use ipnet::IpNet;

use crate::{
    counters::Counters,
    entries::{
        Binding, BindingEntry, Link, address_key, address_of, binding_of, binding_value, link_of, owner_value,
        prefix_key,
    },
    error::DatapathError,
    pins::Pins,
};

/// Every map of the object. All are pinned under their names.
pub(super) const NAMES: [&str; 11] =
    ["BINDINGS", "OWNERS", "LINKS", "MACS", "POOLS", "SANDBOXES", "LEASE", "RATE", "COUNTERS", "EVENTS", "META"];

/// The maps that the agent reads and writes.
pub(super) struct Maps {
    bindings: HashMap<MapData, BindingKey, abi::Binding>,
    owners: HashMap<MapData, Address, Owner>,
    links: HashMap<MapData, u32, abi::Link>,
    macs: HashMap<MapData, MacKey, u32>,
    pools: LpmTrie<MapData, Address, Pool>,
    pub(super) sandboxes: HashMap<MapData, u32, Sandbox>,
    lease: Array<MapData, Lease>,
    counters: PerCpuArray<MapData, u64>,
    pub(super) meta: Array<MapData, u64>,
    /// The links that have a binding for an address. Only the agent writes `BINDINGS`, so this index stays true.
    holders: BTreeMap<IpAddr, BTreeSet<IfIndex>>,
}

/// Refuses pinned maps of another layout. Removes maps without a layout, which a crash left half made.
pub(super) fn check_layout(pins: &Pins) -> Result<(), DatapathError> {
    let refuse =
        |found: String| Err(DatapathError::Layout { path: pins.root().to_owned(), found, expected: LAYOUT_VERSION });
    let pinned: Vec<_> = NAMES.iter().map(|name| pins.map(name)).filter(|path| path.exists()).collect();
    if pinned.is_empty() {
        return Ok(());
    }
    let found = if pins.map("META").exists() {
        let meta = MapData::from_pin(pins.map("META")).and_then(Map::from_map_data).map_err(failed("META"))?;
        let meta: Array<MapData, u64> = match meta.try_into() {
            Ok(meta) => meta,
            Err(error) => return refuse(format!("unknown ({error})")),
        };
        meta.get(&META_LAYOUT, 0).map_err(failed("META"))?
    } else {
        0
    };
    if found == u64::from(LAYOUT_VERSION) {
        return Ok(());
    }
    if found != 0 || !pins.link_pins()?.is_empty() {
        return refuse(found.to_string());
    }
    pinned.iter().try_for_each(|path| crate::pins::remove(path))
}

/// Names the map in an error.
pub(super) fn failed(map: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source }
}

/// Opens a pinned map. Opening by the pin compares the kernel's definition of the map with the types here, not the
/// object's definition.
fn open<M: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &'static str) -> Result<M, DatapathError> {
    MapData::from_pin(pins.map(name)).and_then(Map::from_map_data).and_then(M::try_from).map_err(failed(name))
}

impl Maps {
    /// Opens the maps that loading the object has pinned, or has found pinned.
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let mut maps = Self {
            bindings: open(pins, "BINDINGS")?,
            owners: open(pins, "OWNERS")?,
            links: open(pins, "LINKS")?,
            macs: open(pins, "MACS")?,
            pools: open(pins, "POOLS")?,
            sandboxes: open(pins, "SANDBOXES")?,
            lease: open(pins, "LEASE")?,
            counters: open(pins, "COUNTERS")?,
            meta: open(pins, "META")?,
            holders: BTreeMap::new(),
        };
        for binding in maps.bindings()? {
            maps.holders.entry(binding.entry.address).or_default().insert(binding.entry.link);
        }
        Ok(maps)
    }

    /// Returns the links that have a binding for the address, in any state.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = IfIndex> + '_ {
        self.holders.get(&address).into_iter().flatten().copied()
    }

    pub(super) fn bindings(&self) -> Result<Vec<Binding>, DatapathError> {
        self.bindings
            .iter()
            .map(|entry| entry.map(|(key, value)| binding_of(&key, &value)).map_err(failed("BINDINGS")))
            .collect()
    }

    fn binding(&self, link: IfIndex, address: IpAddr) -> Result<Option<abi::Binding>, DatapathError> {
        match self.bindings.get(&BindingKey::new(link.0, address_key(address)), 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("BINDINGS")(error)),
        }
    }

    fn put(&mut self, link: IfIndex, address: IpAddr, value: abi::Binding) -> Result<(), DatapathError> {
        let key = BindingKey::new(link.0, address_key(address));
        self.bindings.insert(key, value, 0).map_err(failed("BINDINGS"))?;
        self.holders.entry(address).or_default().insert(link);
        Ok(())
    }

    /// Makes a binding CURRENT. An existing one of the same generation keeps its lease.
    pub(super) fn bind(&mut self, entry: &BindingEntry) -> Result<(), DatapathError> {
        let mut value = binding_value(entry);
        if let Some(before) = self.binding(entry.link, entry.address)?
            && before.generation == value.generation
        {
            (value.flags, value.lease_slot) = (before.flags, before.lease_slot);
        }
        self.put(entry.link, entry.address, value)
    }

    /// Makes a binding STALE, if there is one.
    pub(super) fn fence(&mut self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        match self.binding(link, address)? {
            Some(value) if value.state != STATE_STALE => {
                self.put(link, address, abi::Binding { state: STATE_STALE, ..value })
            }
            _ => Ok(()),
        }
    }

    /// Makes a binding STALE, and ends its link's ownership.
    pub(super) fn disown_and_fence(&mut self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        // Fence even if the owner cannot be changed: the fence is what protects the address.
        self.disown(link, address).and(self.fence(link, address))
    }

    /// Returns the addresses that the link has a binding for, in any state.
    pub(super) fn addresses(&self, link: IfIndex) -> Vec<IpAddr> {
        self.holders.iter().filter(|(_, links)| links.contains(&link)).map(|(address, _)| *address).collect()
    }

    pub(super) fn lease(&mut self, link: IfIndex, address: IpAddr, slot: Option<u16>) -> Result<(), DatapathError> {
        let Some(value) = self.binding(link, address)? else { return Ok(()) };
        let flags = if slot.is_some() { value.flags | FLAG_LEASED } else { value.flags & !FLAG_LEASED };
        self.put(link, address, abi::Binding { flags, lease_slot: slot.unwrap_or_default(), ..value })
    }

    pub(super) fn remove_binding(&mut self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        removed("BINDINGS", self.bindings.remove(&BindingKey::new(link.0, address_key(address))))?;
        if let Some(links) = self.holders.get_mut(&address) {
            links.remove(&link);
            if links.is_empty() {
                self.holders.remove(&address);
            }
        }
        Ok(())
    }

    /// Removes every binding of the link. Continues past an error and returns the first.
    pub(super) fn remove_bindings(&mut self, link: IfIndex) -> Result<(), DatapathError> {
        self.addresses(link)
            .into_iter()
            .map(|address| self.disown(link, address).and(self.remove_binding(link, address)))
            .fold(Ok(()), Result::and)
    }

    /// Makes a bound link the owner of its address.
    pub(super) fn own(&mut self, entry: &BindingEntry) -> Result<(), DatapathError> {
        self.owners.insert(address_key(entry.address), owner_value(entry), 0).map_err(failed("OWNERS"))
    }

    pub(super) fn owners(&self) -> Result<BTreeMap<IpAddr, Owner>, DatapathError> {
        self.owners
            .iter()
            .map(|entry| entry.map(|(address, owner)| (address_of(address), owner)).map_err(failed("OWNERS")))
            .collect()
    }

    /// Ends the link's ownership of the address, if it has it.
    pub(super) fn disown(&mut self, link: IfIndex, address: IpAddr) -> Result<(), DatapathError> {
        let key = address_key(address);
        match self.owners.get(&key, 0) {
            Ok(owner) if owner.link == link.0 => removed("OWNERS", self.owners.remove(&key)),
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("OWNERS")(error)),
        }
    }

    pub(super) fn links(&self) -> Result<Vec<Link>, DatapathError> {
        self.links
            .iter()
            .filter_map(|entry| entry.map(|(link, value)| link_of(link, &value)).map_err(failed("LINKS")).transpose())
            .collect()
    }

    /// Writes a link. With `own_mac` the programs find the link by its MAC.
    pub(super) fn put_link(&mut self, link: IfIndex, value: abi::Link, own_mac: bool) -> Result<(), DatapathError> {
        let before = self.links.get(&link.0, 0).ok();
        if before == Some(value) {
            return Ok(());
        }
        if let Some(before) = before
            && before.mac != value.mac
        {
            self.remove_mac(link, Mac(before.mac))?;
        }
        if own_mac && value.mac != [0; 6] {
            self.macs.insert(MacKey::new(value.mac), link.0, 0).map_err(failed("MACS"))?;
        }
        self.links.insert(link.0, value, 0).map_err(failed("LINKS"))
    }

    pub(super) fn remove_link(&mut self, link: IfIndex) -> Result<(), DatapathError> {
        let macs = match self.links.get(&link.0, 0) {
            Ok(value) => self.remove_mac(link, Mac(value.mac)),
            Err(_) => Ok(()),
        };
        macs.and(removed("LINKS", self.links.remove(&link.0)))
    }

    /// Removes a link's MAC, unless another link has it by now.
    pub(super) fn remove_mac(&mut self, link: IfIndex, mac: Mac) -> Result<(), DatapathError> {
        let key = MacKey::new(mac.0);
        match self.macs.get(&key, 0) {
            Ok(owner) if owner == link.0 => removed("MACS", self.macs.remove(&key)),
            _ => Ok(()),
        }
    }

    /// Replaces the pools. Adds and changes before it removes, so that an address that moves between pools is always in
    /// one. Returns the number of changes.
    pub(super) fn set_pools(&mut self, pools: &[(IpNet, u32)]) -> Result<usize, DatapathError> {
        let wanted: BTreeMap<(u32, Address), u32> = pools.iter().map(|(net, pool)| (prefix_key(net), *pool)).collect();
        let mut present = BTreeMap::new();
        for entry in &self.pools {
            let (key, value) = entry.map_err(failed("POOLS"))?;
            present.insert((key.prefix_len(), key.data()), value.pool);
        }
        let mut changed = 0;
        for (&(length, address), &pool) in &wanted {
            if present.get(&(length, address)) != Some(&pool) {
                self.pools.insert(&Key::new(length, address), Pool { pool, flags: 0 }, 0).map_err(failed("POOLS"))?;
                changed += 1;
            }
        }
        for &(length, address) in present.keys().filter(|key| !wanted.contains_key(key)) {
            removed("POOLS", self.pools.remove(&Key::new(length, address)))?;
            changed += 1;
        }
        Ok(changed)
    }

    pub(super) fn set_lease(&mut self, slot: u16, deadline_ns: u64) -> Result<(), DatapathError> {
        self.lease.set(u32::from(slot), Lease { deadline_ns, reserved: 0 }, 0).map_err(failed("LEASE"))
    }

    pub(super) fn counters(&self) -> Result<Counters, DatapathError> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values = self.counters.get(&(*counter as u32), 0).map_err(failed("COUNTERS"))?;
                Ok((*counter, values.iter().sum()))
            })
            .collect()
    }
}

/// Turns "not found" into success.
pub(super) fn removed(name: &'static str, result: Result<(), MapError>) -> Result<(), DatapathError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed(name)),
    }
}
