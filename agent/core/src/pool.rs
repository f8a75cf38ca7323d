//! Address pools: the addresses of each, and what a pod needs to use one.

mod address_set;
mod error;
mod family;

use std::net::IpAddr;

use ipnet::IpNet;

pub use address_set::AddressSet;
pub use error::PoolError;
pub use family::Family;

/// The fields of a pool's spec, not yet checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolSpec<'a> {
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

/// A pool whose spec is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The network of the addresses.
    pub subnet: IpNet,
    /// The addresses for pods: `ips` less `excludeIPs` and the gateway.
    pub addresses: AddressSet,
    /// The addresses that the guard checks: all of `ips`.
    pub managed: AddressSet,
    /// The default route's next hop.
    pub gateway: Option<IpAddr>,
    /// The VLAN ID; 0 is none.
    pub vlan: u16,
}

impl Pool {
    /// Checks a pool's spec.
    pub fn parse(spec: &PoolSpec<'_>) -> Result<Self, PoolError> {
        let subnet: IpNet = spec.subnet.parse().map_err(|_| PoolError::Network(spec.subnet.to_owned()))?;
        let subnet = subnet.trunc();
        let family = Family::of(subnet.addr());
        if let Some(version) = spec.version
            && version != if family == Family::V4 { 4 } else { 6 }
        {
            return Err(PoolError::Version { version, subnet, family });
        }
        let managed = AddressSet::parse(family, spec.ips)?;
        let network = AddressSet::range(subnet.network(), subnet.broadcast());
        if let Some((first, last)) = managed.without(&network).first_range() {
            return Err(PoolError::Outside { text: format!("{first}-{last}"), subnet });
        }
        let gateway = spec.gateway.map(|gateway| parse_gateway(family, gateway)).transpose()?;
        let reserved = gateway.map_or(AddressSet::empty(family), |gateway| AddressSet::range(gateway, gateway));
        let addresses = managed.without(&AddressSet::parse(family, spec.exclude)?).without(&reserved);
        let vlan = spec.vlan.unwrap_or(0);
        let vlan = u16::try_from(vlan).ok().filter(|vlan| *vlan <= 4094).ok_or(PoolError::Vlan(vlan))?;
        Ok(Self { subnet, addresses, managed, gateway, vlan })
    }

    /// Returns the family of the addresses.
    pub fn family(&self) -> Family {
        self.addresses.family()
    }

    /// Returns the smallest list of networks that covers the managed addresses.
    pub fn networks(&self) -> Vec<IpNet> {
        self.managed.networks()
    }

    /// Returns an address with the subnet's prefix length.
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
    use super::*;

    fn set(texts: &[&str]) -> AddressSet {
        AddressSet::parse(Family::V4, texts).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pool_never_allocates_its_gateway_or_excluded_addresses() {
        let ips = ["10.0.0.1-10.0.0.9".to_owned()];
        let exclude = ["10.0.0.5".to_owned()];
        let spec = PoolSpec {
            subnet: "10.0.0.0/24",
            ips: &ips,
            exclude: &exclude,
            gateway: Some("10.0.0.1"),
            ..PoolSpec::default()
        };
        let pool = Pool::parse(&spec).unwrap();
        assert_eq!(pool.addresses, set(&["10.0.0.2-10.0.0.4", "10.0.0.6-10.0.0.9"]));
        assert_eq!(pool.with_prefix(ip("10.0.0.2")).to_string(), "10.0.0.2/24");
    }

    #[test]
    fn errors_name_the_bad_field() {
        let bad = |spec: PoolSpec<'_>| Pool::parse(&spec).unwrap_err().to_string();
        let ips = |text: &str| [text.to_owned()];
        let base = PoolSpec { subnet: "10.0.0.0/24", ..PoolSpec::default() };
        assert!(bad(PoolSpec { subnet: "10.0.0.0/33", ..base }).contains("10.0.0.0/33"));
        assert!(bad(PoolSpec { version: Some(6), ..base }).contains("ipVersion is 6"));
        assert!(bad(PoolSpec { ips: &ips("10.0.0.9-10.0.0.1"), ..base }).contains("ends before"));
        assert!(bad(PoolSpec { ips: &ips("10.0.0.250-10.0.1.3"), ..base }).contains("10.0.1.0-10.0.1.3"));
        assert!(bad(PoolSpec { ips: &ips("fd00::1"), ..base }).contains("IPv4"));
        assert!(bad(PoolSpec { ips: &ips("here"), ..base }).contains("here"));
        assert!(bad(PoolSpec { gateway: Some("fd00::1"), ..base }).contains("gateway"));
        assert!(bad(PoolSpec { vlan: Some(4095), ..base }).contains("4095"));
    }
}
