//! An address of an interface and the pool that it comes from.

use std::net::IpAddr;

use holdfast_core::pool::Family;
use ipnet::IpNet;

/// An address that an interface keeps or has newly acquired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssignedAddress {
    /// The address with its subnet's prefix length.
    pub(crate) net: IpNet,
    /// The name of its pool.
    pub(crate) pool: String,
}

impl AssignedAddress {
    /// Returns the address `net` of the pool with this name.
    pub(crate) fn new(net: IpNet, pool: &str) -> Self {
        Self { net, pool: pool.to_owned() }
    }

    /// Returns the address without its prefix length.
    pub(crate) fn address(&self) -> IpAddr {
        self.net.addr()
    }

    /// Returns the address's family.
    pub(crate) fn family(&self) -> Family {
        Family::of(self.address())
    }
}
