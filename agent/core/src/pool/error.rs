//! The errors of a pool's spec.

use ipnet::IpNet;

use super::family::Family;

/// The reason why a pool's spec was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Neither one address nor a range.
    #[error("{0:?} is neither an IP address nor a range like 10.0.0.1-10.0.0.9")]
    Range(String),
    /// A range whose last address is before its first.
    #[error("the range {0:?} ends before it begins")]
    Backwards(String),
    /// An address of the wrong family.
    #[error("{text:?} is not an {family} address, but the pool's subnet is {family}")]
    Family {
        /// The entry in the spec.
        text: String,
        /// The subnet's family.
        family: Family,
    },
    /// `spec.ipVersion` and `spec.subnet` disagree.
    #[error("ipVersion is {version}, but the subnet {subnet} is {family}")]
    Version {
        /// `spec.ipVersion`.
        version: i64,
        /// The subnet.
        subnet: IpNet,
        /// The subnet's family.
        family: Family,
    },
    /// An address outside the subnet.
    #[error("{text:?} is outside the subnet {subnet}")]
    Outside {
        /// The first range outside.
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
    /// A VLAN ID that 802.1Q does not have.
    #[error("VLAN {0} is not in 0 to 4094")]
    Vlan(i64),
}
