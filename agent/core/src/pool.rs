//! The addresses of a pool, as sorted ranges: a pool of a million addresses costs as little as one of ten.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// Why a pool's text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Neither one address nor a range.
    #[error("{0:?} is neither an IP address nor a range like 10.0.0.1-10.0.0.9")]
    Range(String),
    /// A range whose last address stands before its first.
    #[error("the range {0:?} ends before it begins")]
    Backwards(String),
    /// An address of the wrong family.
    #[error("{text:?} is not an {family} address, but the pool's subnet is {family}")]
    Family {
        /// What was written.
        text: String,
        /// What the subnet is.
        family: Family,
    },
    /// `spec.ipVersion` and `spec.subnet` disagree.
    #[error("ipVersion is {version}, but the subnet {subnet} is {family}")]
    Version {
        /// What was written.
        version: i64,
        /// The subnet.
        subnet: IpNet,
        /// Its family.
        family: Family,
    },
    /// An address outside the subnet.
    #[error("{text:?} is outside the subnet {subnet}")]
    Outside {
        /// What was written.
        text: String,
        /// The subnet.
        subnet: IpNet,
    },
    /// Not a CIDR.
    #[error("{0:?} is not a network in CIDR form like 10.0.0.0/16")]
    Network(String),
    /// Not an address.
    #[error("the gateway {0:?} is not an IP address of the pool's family")]
    Gateway(String),
    /// A VLAN that 802.1Q does not have.
    #[error("VLAN {0} is not in 0 to 4094")]
    Vlan(i64),
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which addresses are listed.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(number).expect("an IPv4 address has 32 bits")).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// A set of addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSet {
    family: Family,
    /// First and last; sorted, never touching.
    ranges: Vec<(u128, u128)>,
}

impl AddressSet {
    /// No address at all.
    pub fn empty(family: Family) -> Self {
        Self { family, ranges: Vec::new() }
    }

    /// The addresses that `texts` name: single ones or ranges `first-last`.
    pub fn parse<S: AsRef<str>>(family: Family, texts: &[S]) -> Result<Self, PoolError> {
        let ranges = texts.iter().map(|text| parse_range(family, text.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self::from_ranges(family, ranges))
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

    /// The addresses of `self` that `other` does not have.
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

    /// How many addresses there are.
    pub fn len(&self) -> u128 {
        self.ranges.iter().fold(0, |sum: u128, (first, last)| sum.saturating_add(last - first).saturating_add(1))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let wanted = number(address);
        Family::of(address) == self.family && self.ranges.iter().any(|&(first, last)| (first..=last).contains(&wanted))
    }

    /// All addresses, from the one at `position` (counted from 0, modulo the size) up and once around.
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

    /// The smallest list of networks that covers exactly these addresses.
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

/// A pool as its author wrote it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolText<'a> {
    /// `spec.ipVersion`.
    pub version: Option<i64>,
    /// `spec.subnet`.
    pub subnet: &'a str,
    /// `spec.ips`.
    pub ips: &'a [String],
    /// `spec.excludeIPs`.
    pub exclude: &'a [String],
    /// `spec.gateway`.
    pub gateway: Option<&'a str>,
    /// `spec.vlan`.
    pub vlan: Option<i64>,
}

/// A pool's addresses and what a pod needs to use one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The network of the addresses.
    pub subnet: IpNet,
    /// What is given out: `ips` less `excludeIPs` and the gateway.
    pub addresses: AddressSet,
    /// What is ours to judge: `ips`, whether given out or not.
    pub managed: AddressSet,
    /// The default route's next hop.
    pub gateway: Option<IpAddr>,
    /// The VLAN; 0 is none.
    pub vlan: u16,
}

impl Pool {
    /// Checks what a pool's author wrote.
    pub fn parse(text: &PoolText<'_>) -> Result<Self, PoolError> {
        let subnet: IpNet = text.subnet.parse().map_err(|_| PoolError::Network(text.subnet.to_owned()))?;
        let subnet = subnet.trunc();
        let family = Family::of(subnet.addr());
        if let Some(version) = text.version
            && version != if family == Family::V4 { 4 } else { 6 }
        {
            return Err(PoolError::Version { version, subnet, family });
        }
        let managed = AddressSet::parse(family, text.ips)?;
        let network = AddressSet::from_ranges(family, vec![(number(subnet.network()), number(subnet.broadcast()))]);
        if let Some(&(first, last)) = managed.without(&network).ranges.first() {
            let (first, last) = (family.address(first), family.address(last));
            return Err(PoolError::Outside { text: format!("{first}-{last}"), subnet });
        }
        let gateway = text.gateway.map(|gateway| parse_gateway(family, gateway)).transpose()?;
        let never = AddressSet::from_ranges(
            family,
            gateway.map(|gateway| (number(gateway), number(gateway))).into_iter().collect(),
        );
        let addresses = managed.without(&AddressSet::parse(family, text.exclude)?).without(&never);
        let vlan = text.vlan.unwrap_or(0);
        let vlan = u16::try_from(vlan).ok().filter(|vlan| *vlan <= 4094).ok_or(PoolError::Vlan(vlan))?;
        Ok(Self { subnet, addresses, managed, gateway, vlan })
    }

    /// The family of the addresses.
    pub fn family(&self) -> Family {
        self.addresses.family
    }

    /// The smallest list of networks that covers what is managed.
    pub fn networks(&self) -> Vec<IpNet> {
        self.managed.networks()
    }

    /// An address with the subnet's prefix length.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new(address, self.subnet.prefix_len()).expect("an address of the pool has the subnet's family")
    }
}

fn parse_gateway(family: Family, text: &str) -> Result<IpAddr, PoolError> {
    text.parse()
        .ok()
        .filter(|gateway| Family::of(*gateway) == family)
        .ok_or_else(|| PoolError::Gateway(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(texts: &[&str]) -> AddressSet {
        AddressSet::parse(Family::V4, texts).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
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
    fn the_walk_goes_once_around() {
        let some = set(&["10.0.0.1-10.0.0.3", "10.0.0.8-10.0.0.9"]);
        let walk: Vec<_> = some.iter_from(11).map(|address| address.to_string()).collect();
        assert_eq!(walk, ["10.0.0.2", "10.0.0.3", "10.0.0.8", "10.0.0.9", "10.0.0.1"]);
        assert_eq!(AddressSet::empty(Family::V4).iter_from(3).count(), 0);
    }

    #[test]
    fn a_whole_ipv6_network_costs_nothing() {
        let all = AddressSet::parse(Family::V6, &["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]).unwrap();
        assert_eq!(all.len(), u128::MAX);
        assert_eq!(all.iter_from(5).next(), Some(ip("::5")));
        assert_eq!(all.networks(), ["::/0".parse().unwrap()]);
    }

    #[test]
    fn a_pool_never_gives_out_its_gateway_or_what_it_excludes() {
        let ips = ["10.0.0.1-10.0.0.9".to_owned()];
        let exclude = ["10.0.0.5".to_owned()];
        let text = PoolText {
            subnet: "10.0.0.0/24",
            ips: &ips,
            exclude: &exclude,
            gateway: Some("10.0.0.1"),
            ..PoolText::default()
        };
        let pool = Pool::parse(&text).unwrap();
        assert_eq!(pool.addresses, set(&["10.0.0.2-10.0.0.4", "10.0.0.6-10.0.0.9"]));
        assert_eq!(pool.with_prefix(ip("10.0.0.2")).to_string(), "10.0.0.2/24");
    }

    #[test]
    fn bad_text_is_named() {
        let bad = |text: PoolText<'_>| Pool::parse(&text).unwrap_err().to_string();
        let ips = |text: &str| [text.to_owned()];
        let base = PoolText { subnet: "10.0.0.0/24", ..PoolText::default() };
        assert!(bad(PoolText { subnet: "10.0.0.0/33", ..base }).contains("10.0.0.0/33"));
        assert!(bad(PoolText { version: Some(6), ..base }).contains("ipVersion is 6"));
        assert!(bad(PoolText { ips: &ips("10.0.0.9-10.0.0.1"), ..base }).contains("ends before"));
        assert!(bad(PoolText { ips: &ips("10.0.0.250-10.0.1.3"), ..base }).contains("10.0.1.0-10.0.1.3"));
        assert!(bad(PoolText { ips: &ips("fd00::1"), ..base }).contains("IPv4"));
        assert!(bad(PoolText { ips: &ips("here"), ..base }).contains("here"));
        assert!(bad(PoolText { gateway: Some("fd00::1"), ..base }).contains("gateway"));
        assert!(bad(PoolText { vlan: Some(4095), ..base }).contains("4095"));
    }

    proptest! {
        #[test]
        fn sets_agree_with_a_plain_set(
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
