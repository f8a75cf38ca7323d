//! Hardware addresses, and their derivation from the name of a link.

use std::fmt;

use crate::id::IfName;

/// A hardware address; printed as `02:00:5e:00:53:01`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Returns the address of a link's pod end. It derives from the host end's name, and so from container and interface:
    /// both addresses are known before the link exists, and no read has to follow its creation.
    pub fn of_pod(host_name: &IfName) -> Self {
        Self::derive(host_name, 0x02)
    }

    /// Returns the address of a link's host end.
    pub fn of_host(host_name: &IfName) -> Self {
        Self::derive(host_name, 0x06)
    }

    /// Returns a locally administered unicast address, made of the twelve digits after `hf` or of any other name's bytes.
    fn derive(host_name: &IfName, low_nibble: u8) -> Self {
        let name = host_name.as_str();
        let digits = name.get(2..14).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let number = digits.unwrap_or_else(|| name.bytes().fold(0, |sum, byte| sum.rotate_left(7) ^ u64::from(byte)));
        let [_, _, mut mac @ ..] = number.to_be_bytes();
        mac[0] = mac[0] & 0xf0 | low_nibble;
        Self(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_derive_from_the_name() {
        let name: IfName = "hf0123456789ab".parse().unwrap();
        assert_eq!(Mac::of_pod(&name).to_string(), "02:23:45:67:89:ab");
        assert_eq!(Mac::of_host(&name).to_string(), "06:23:45:67:89:ab");
        let other: IfName = "eth0".parse().unwrap();
        for mac in [Mac::of_pod(&name), Mac::of_host(&name), Mac::of_pod(&other), Mac::of_host(&other)] {
            assert_eq!(mac.0[0] & 3, 2, "{mac} is locally administered and unicast");
        }
    }
}
