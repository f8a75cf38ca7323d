//! Leaves one holder for each address after an agent ended between two writes.
//!
//! ```text
//! bind:   BINDINGS[new] = CURRENT ──▶ OWNERS = new ──▶ BINDINGS[old] = STALE
//! fence:  OWNERS = none   ──▶ BINDINGS[old] = STALE
//! ended:  └─ two CURRENT, or an owner that is not the one CURRENT ─┘
//! ```
//!
//! The binding with the higher generation stays. That is right for all holders of one endpoint. Generations of different
//! endpoints cannot be compared: where an address went from one to another, the next comparison with the records decides.

use std::{collections::BTreeMap, net::IpAddr};

use holdfast_core::id::IfIndex;

use crate::{
    entries::{BindingEntry, BindingState, owner_value},
    error::DatapathError,
    maps::Maps,
};

/// Leaves one CURRENT binding for each address, and makes `OWNERS` agree with it.
pub(super) fn resolve_owners(maps: &mut Maps) -> Result<(), DatapathError> {
    let owners = maps.owners()?;
    let mut current: BTreeMap<IpAddr, Vec<BindingEntry>> = BTreeMap::new();
    for binding in maps.bindings()? {
        if binding.state == BindingState::Current {
            current.entry(binding.entry.address).or_default().push(binding.entry);
        }
    }
    for (address, owner) in &owners {
        if !current.contains_key(address) {
            maps.disown(IfIndex(owner.link), *address)?;
        }
    }
    for (address, entries) in current {
        let owner = owners.get(&address);
        let Some(holder) = holder(&entries, owner.map(|owner| IfIndex(owner.link))) else { continue };
        if owner != Some(&owner_value(holder)) {
            maps.own(holder)?;
        }
        for other in entries.iter().filter(|other| other.link != holder.link) {
            tracing::warn!(%address, link = %other.link, holder = %holder.link, "an address had two holders: fenced the older one");
            maps.fence(other.link, address)?;
        }
    }
    Ok(())
}

/// Returns the binding of an address that stays: the highest generation, and among equal ones the owner's.
fn holder(entries: &[BindingEntry], owner: Option<IfIndex>) -> Option<&BindingEntry> {
    entries.iter().max_by_key(|entry| (entry.generation, owner == Some(entry.link), entry.link))
}

#[cfg(test)]
mod tests {
    use holdfast_core::id::Generation;

    use holdfast_core::mac::Mac;

    use super::*;

    #[test]
    fn the_higher_generation_stays_and_of_equal_ones_the_owner() {
        let entry = |link, generation| BindingEntry {
            link: IfIndex(link),
            address: IpAddr::from([10, 0, 0, 1]),
            generation: Generation(generation),
            container_tag: 0,
            mac: Mac::default(),
        };
        for (entries, owner, stays) in [
            (vec![entry(1, 5), entry(2, 4)], Some(2), Some(1)),
            (vec![entry(1, 4), entry(2, 5)], None, Some(2)),
            (vec![entry(1, 5), entry(2, 5)], Some(1), Some(1)),
            (vec![entry(1, 5), entry(2, 5)], Some(2), Some(2)),
            (vec![entry(1, 5), entry(2, 5)], Some(3), Some(2)),
            (vec![], Some(1), None),
        ] {
            assert_eq!(holder(&entries, owner.map(IfIndex)).map(|entry| entry.link.0), stays, "{entries:?} {owner:?}");
        }
    }
}
