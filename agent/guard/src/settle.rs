//! One holder for every address, whatever an agent was doing when it ended.
//!
//! ```text
//! bind:   BINDINGS[new] = CURRENT ──▶ OWNERS = new ──▶ BINDINGS[old] = STALE
//! fence:  OWNERS = nobody ──▶ BINDINGS[old] = STALE
//! ended:  └─ two CURRENT, or an owner that is not the one CURRENT ─┘
//! ```
//!
//! The one with the higher generation stays. That is right for every holder of one endpoint; where an address has gone
//! from one endpoint to another, whose generations know nothing of each other, the records mend it soon after.

use std::{collections::BTreeMap, net::IpAddr};

use holdfast_core::id::IfIndex;

use super::{BindingEntry, BindingState, DatapathError, entries::owner_value, maps::Maps};

/// Leaves one CURRENT binding of each address, and makes `OWNERS` agree.
pub(super) fn settle(maps: &mut Maps) -> Result<(), DatapathError> {
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

/// Of those that hold an address, the one that stays. Of equal generations the owner does.
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
