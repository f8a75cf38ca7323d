//! Links and addresses as values, and as the messages they travel in; see also `route` and `neighbour`.

use std::net::IpAddr;

use holdfast_core::{id::IfName, mac::Mac};
use ipnet::IpNet;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage},
        route::RouteProtocol,
    },
};

use super::netlink::{Intent, Request};

/// Our number in `RTA_PROTOCOL` and `NDA_PROTOCOL`: `ip route show proto 72` lists what is ours. Neither
/// `linux/rtnetlink.h` nor the table of iproute2 gives it to anyone.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x48);

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// An interface, as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct LinkAttrs {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// Up, with a carrier, and the kernel has taken notice of both: it sends.
    pub(super) running: bool,
    /// The other end's number in its namespace.
    pub(super) peer: Option<u32>,
}

impl LinkAttrs {
    pub(super) fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = message else { return None };
        let mut attrs = Self {
            index: message.header.index,
            name: String::new(),
            alias: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::Running),
            peer: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => attrs.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => attrs.alias.clone_from(alias),
                LinkAttribute::Address(bytes) => attrs.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => attrs.mtu = *mtu,
                LinkAttribute::Link(index) => attrs.peer = Some(*index),
                _ => {}
            }
        }
        Some(attrs)
    }

    /// Asks for one interface.
    pub(super) fn get(name: &IfName) -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(without_statistics(LinkUnspec::new_with_name(name.as_str())).build())
    }

    /// Asks for one interface by its number.
    pub(super) fn get_index(index: u32) -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(without_statistics(LinkUnspec::new_with_index(index)).build())
    }

    /// Asks for all.
    pub(super) fn all() -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(without_statistics(LinkMessageBuilder::<LinkUnspec>::default()).build())
    }
}

fn without_statistics(builder: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
    builder.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

/// Changes an interface that exists.
pub(super) fn set_link(link: LinkMessage, what: impl Into<String>) -> Request {
    Request::new(Intent::Change, RouteNetlinkMessage::SetLink(link), what)
}

/// An address of an interface, which brings no route of its own and is usable at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) address: IpNet,
    pub(super) link: u32,
}

impl Address {
    pub(super) fn ensure(self) -> Request {
        let ip = self.address.addr();
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = self.address.prefix_len();
        message.header.index = self.link;
        // No prefix route: the subnet is behind the node, not on the link. No DAD: the claim made the address
        // unique, and a tentative address could not be a route's source.
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

    pub(super) fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        // On a point-to-point interface IFA_ADDRESS is the other side; IFA_LOCAL is absent with plain IPv6.
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

    /// Asks for all of a family.
    pub(super) fn all(family: AddressFamily) -> RouteNetlinkMessage {
        let mut message = AddressMessage::default();
        message.header.family = family;
        RouteNetlinkMessage::GetAddress(message)
    }
}
