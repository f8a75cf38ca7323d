//! Sets of addresses, as ranges.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::{
    error::PoolError,
    family::{Family, number},
};

/// A set of addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSet {
    family: Family,
    /// First and last address of each range; sorted, disjoint and not adjacent.
    ranges: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Returns a set without addresses.
    pub fn empty(family: Family) -> Self {
        Self { family, ranges: Vec::new() }
    }

    /// Parses single addresses and ranges `first-last`.
    pub fn parse<S: AsRef<str>>(family: Family, texts: &[S]) -> Result<Self, PoolError> {
        let ranges = texts.iter().map(|text| parse_range(family, text.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self::from_ranges(family, ranges))
    }

    /// Returns the addresses from `first` to `last`, which have one family.
    pub(super) fn range(first: IpAddr, last: IpAddr) -> Self {
        Self { family: Family::of(first), ranges: vec![(number(first), number(last))] }
    }

    fn from_ranges(family: Family, mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { family, ranges: merged }
    }

    /// Returns the addresses of `self` that `other` does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.ranges.len());
        for &(first, last) in &self.ranges {
            let mut from = Some(first);
            for &(cut_first, cut_last) in other.ranges.iter().filter(|cut| cut.0 <= last && cut.1 >= first) {
                let Some(start) = from else { break };
                if start < cut_first {
                    left.push((start, cut_first - 1));
                }
                from = (cut_last < last).then(|| cut_last + 1);
            }
            if let Some(start) = from {
                left.push((start, last));
            }
        }
        Self { family: self.family, ranges: left }
    }

    /// Returns the number of addresses.
    pub fn len(&self) -> u128 {
        self.ranges.iter().fold(0, |sum: u128, (first, last)| sum.saturating_add(last - first).saturating_add(1))
    }

    /// Returns true where there is no address.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns true where `address` is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        let wanted = number(address);
        Family::of(address) == self.family && self.ranges.iter().any(|&(first, last)| (first..=last).contains(&wanted))
    }

    /// Returns all addresses in ascending order, from the one at `position` (counted from 0, modulo the size), then those
    /// before it.
    pub fn iter_from(&self, position: u128) -> impl Iterator<Item = IpAddr> + '_ {
        let mut skip = position.checked_rem(self.len()).unwrap_or(0);
        let mut start = self.ranges.len();
        for (index, &(first, last)) in self.ranges.iter().enumerate() {
            let size = (last - first).saturating_add(1);
            if skip < size {
                start = index;
                break;
            }
            skip -= size;
        }
        let (before, after) = self.ranges.split_at(start);
        let turn = after.first().map(|&(first, last)| (first + skip, (first, last)));
        let head = turn.map(|(at, (_, last))| (at, last));
        let tail = turn.and_then(|(at, (first, _))| (at > first).then(|| (first, at - 1)));
        head.into_iter()
            .chain(after.iter().skip(1).copied())
            .chain(before.iter().copied())
            .chain(tail)
            .flat_map(|(first, last)| first..=last)
            .map(|number| self.family.address(number))
    }

    /// Returns the family of the addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Returns the first and last address of the first range.
    pub(super) fn first_range(&self) -> Option<(IpAddr, IpAddr)> {
        self.ranges.first().map(|&(first, last)| (self.family.address(first), self.family.address(last)))
    }

    /// Returns the smallest list of networks that covers exactly these addresses.
    pub fn networks(&self) -> Vec<IpNet> {
        let ends = |first, last| (self.family.address(first), self.family.address(last));
        let mut networks = Vec::new();
        for &(first, last) in &self.ranges {
            match ends(first, last) {
                (IpAddr::V4(a), IpAddr::V4(b)) => networks.extend(Ipv4Subnets::new(a, b, 0).map(IpNet::V4)),
                (IpAddr::V6(a), IpAddr::V6(b)) => networks.extend(Ipv6Subnets::new(a, b, 0).map(IpNet::V6)),
                _ => unreachable!("a set has one family"),
            }
        }
        networks
    }
}

fn parse_range(family: Family, text: &str) -> Result<(u128, u128), PoolError> {
    let wrong = || PoolError::Range(text.to_owned());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: IpAddr = first.trim().parse().map_err(|_| wrong())?;
    let last: IpAddr = last.trim().parse().map_err(|_| wrong())?;
    if Family::of(first) != family || Family::of(last) != family {
        return Err(PoolError::Family { text: text.to_owned(), family });
    }
    if number(first) > number(last) {
        return Err(PoolError::Backwards(text.to_owned()));
    }
    Ok((number(first), number(last)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(texts: &[&str]) -> AddressSet {
        AddressSet::parse(Family::V4, texts).unwrap()
    }

    #[test]
    fn ranges_merge_and_subtract() {
        let all = set(&["10.0.0.5-10.0.0.9", "10.0.0.1", "10.0.0.2-10.0.0.6"]);
        assert_eq!(all.ranges, set(&["10.0.0.1-10.0.0.9"]).ranges);
        assert_eq!(all.len(), 9);
        let less = all.without(&set(&["10.0.0.1", "10.0.0.4-10.0.0.5", "10.0.0.9-10.0.1.0"]));
        assert_eq!(less, set(&["10.0.0.2-10.0.0.3", "10.0.0.6-10.0.0.8"]));
    }

    #[test]
    fn iteration_wraps_around_once() {
        let some = set(&["10.0.0.1-10.0.0.3", "10.0.0.8-10.0.0.9"]);
        let walk: Vec<_> = some.iter_from(11).map(|address| address.to_string()).collect();
        assert_eq!(walk, ["10.0.0.2", "10.0.0.3", "10.0.0.8", "10.0.0.9", "10.0.0.1"]);
        assert_eq!(AddressSet::empty(Family::V4).iter_from(3).count(), 0);
    }

    #[test]
    fn a_whole_ipv6_network_is_one_range() {
        let all = AddressSet::parse(Family::V6, &["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]).unwrap();
        assert_eq!(all.len(), u128::MAX);
        assert_eq!(all.iter_from(5).next(), Some("::5".parse().unwrap()));
        assert_eq!(all.networks(), ["::/0".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn sets_agree_with_a_btree_set(
            plus in prop::collection::vec((0u32..200, 0u32..9), 0..12),
            minus in prop::collection::vec((0u32..200, 0u32..9), 0..12),
            from in 0u128..400,
        ) {
            let ranges = |pairs: &[(u32, u32)]| pairs.iter().map(|&(a, n)| (u128::from(a), u128::from(a + n))).collect();
            let model = |pairs: &[(u32, u32)]| -> BTreeSet<u32> { pairs.iter().flat_map(|&(a, n)| a..=a + n).collect() };
            let left = AddressSet::from_ranges(Family::V4, ranges(&plus)).without(&AddressSet::from_ranges(Family::V4, ranges(&minus)));
            let expected: Vec<_> = model(&plus).difference(&model(&minus)).map(|n| IpAddr::V4((*n).into())).collect();
            let mut walked: Vec<_> = left.iter_from(from).collect();
            walked.sort_unstable();
            prop_assert_eq!(&walked, &expected);
            prop_assert_eq!(left.len(), expected.len() as u128);
            for n in 0..220u32 {
                let address = IpAddr::V4(n.into());
                prop_assert_eq!(left.contains(address), expected.contains(&address));
                prop_assert_eq!(left.networks().iter().any(|net| net.contains(&address)), expected.contains(&address));
            }
        }
    }
}
