//! IP addresses of interfaces as values, and the rtnetlink messages that carry them.

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};

use super::{
    error::NetError,
    netlink::{Intent, Request, Socket},
    protocol::family,
};

/// An address of an interface, without a prefix route and without duplicate address detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) address: IpNet,
    pub(super) link: u32,
}

impl Address {
    /// Returns the request that adds the address, if it is not there yet.
    pub(super) fn ensure(self) -> Request {
        let ip = self.address.addr();
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = self.address.prefix_len();
        message.header.index = self.link;
        // No prefix route, because the subnet is behind the node and not on the link. No DAD, because the claim made
        // the address unique, and a tentative address cannot be a route's source.
        let mut flags = AddressFlags::Noprefixroute;
        if ip.is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        message.attributes.extend([
            AddressAttribute::Local(ip),
            AddressAttribute::Address(ip),
            AddressAttribute::Flags(flags),
        ]);
        let what = format!("add address {} to the pod's interface", self.address);
        Request::new(Intent::Ensure, RouteNetlinkMessage::NewAddress(message), what)
    }

    fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        // On a point-to-point interface IFA_ADDRESS is the peer. IFA_LOCAL is absent with plain IPv6.
        let local = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        };
        let address = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        };
        let attributes = &message.attributes;
        let ip = attributes.iter().find_map(local).or_else(|| attributes.iter().find_map(address))?;
        let address = IpNet::new(ip, message.header.prefix_len).ok()?;
        Some(Self { address, link: message.header.index })
    }

    /// Returns the addresses of all interfaces.
    pub(super) fn list(socket: &Socket) -> Result<Vec<Self>, NetError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Unspec;
        let found = socket.dump(&RouteNetlinkMessage::GetAddress(message), "list addresses")?;
        Ok(found.iter().filter_map(Self::parse).collect())
    }
}
