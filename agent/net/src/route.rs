//! Routes as values, and the rtnetlink messages that carry them.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType},
};

use super::{
    errno::errno,
    error::NetError,
    netlink::{Intent, Request, Socket},
    protocol::{PROTOCOL, family},
};

/// A unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) dst: IpNet,
    /// The next hop, which is taken to be on the link.
    pub(super) via: Option<IpAddr>,
    pub(super) link: u32,
    /// The preferred source address of locally generated packets.
    pub(super) source: Option<IpAddr>,
}

/// A route of the kernel's table.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundRoute {
    pub(super) route: Route,
    /// It carries our [`PROTOCOL`] number.
    pub(super) ours: bool,
    pub(super) metric: u32,
}

impl Route {
    /// Returns the request that adds the route.
    pub(super) fn add(self, intent: Intent) -> Request {
        Request::new(intent, RouteNetlinkMessage::NewRoute(self.message()), format!("add {}", self.describe()))
    }

    pub(super) fn remove(self) -> Request {
        let what = format!("remove {}", self.describe());
        Request::new(Intent::Remove, RouteNetlinkMessage::DelRoute(self.message()), what)
    }

    /// Returns the route in words, for messages.
    pub(super) fn describe(self) -> String {
        let via = self.via.map(|via| format!(" via {via}")).unwrap_or_default();
        format!("route to {}{via}", self.dst)
    }

    fn message(self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.dst.addr());
        header.destination_prefix_length = self.dst.prefix_len();
        header.table = RouteHeader::RT_TABLE_MAIN;
        header.protocol = PROTOCOL;
        header.kind = RouteType::Unicast;
        header.scope = if self.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if self.via.is_some_and(|via| via.is_ipv4()) {
            // The next hop is in no subnet of the link. The IPv6 one is link-local and needs no flag.
            header.flags = RouteFlags::Onlink;
        }
        if self.dst.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(self.dst.network().into()));
        }
        message.attributes.push(RouteAttribute::Oif(self.link));
        message.attributes.extend(self.via.map(|via| RouteAttribute::Gateway(via.into())));
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        message
    }

    /// Returns the request for the route of packets to an address (`ip route get`).
    pub(super) fn lookup(address: IpAddr) -> Request {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = IpNet::from(address).prefix_len();
        message.attributes.push(RouteAttribute::Destination(address.into()));
        Request::new(Intent::Change, RouteNetlinkMessage::GetRoute(message), format!("look up {address}"))
    }

    /// Returns true if the answer to [`Self::lookup`] is a local route.
    pub(super) fn is_local(message: &RouteNetlinkMessage) -> bool {
        matches!(message, RouteNetlinkMessage::NewRoute(message) if message.header.kind == RouteType::Local)
    }

    /// Returns the interface index of the answer to [`Self::lookup`].
    pub(super) fn oif(message: &RouteNetlinkMessage) -> Option<u32> {
        let RouteNetlinkMessage::NewRoute(message) = message else { return None };
        message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    }

    /// Returns the request for the routes of a family. Kernels from 4.20 on filter by interface and protocol.
    fn dump_request(family: AddressFamily, link: Option<u32>, ours: bool) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        if ours {
            message.header.protocol = PROTOCOL;
        }
        message.attributes.extend(link.map(RouteAttribute::Oif));
        RouteNetlinkMessage::GetRoute(message)
    }
}

impl FoundRoute {
    /// Returns the unicast routes of the main table, of one family: those of one link or of all, and those of ours or
    /// of all. An interface or a table that does not exist has none. Kernels before 4.20 ignore both filters.
    pub(super) fn list(
        socket: &Socket,
        family: AddressFamily,
        link: Option<u32>,
        ours: bool,
    ) -> Result<Vec<Self>, NetError> {
        match socket.dump(&Route::dump_request(family, link, ours), "list routes") {
            Ok(found) => Ok(found.iter().filter_map(Self::parse).collect()),
            Err(NetError::Refused { source, .. }) if matches!(errno(&source), Some(libc::ENODEV | libc::ENOENT)) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewRoute(message) = message else { return None };
        let header = &message.header;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
            return None;
        }
        let any =
            if header.address_family == AddressFamily::Inet { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let (mut dst, mut via, mut source, mut link, mut metric) = (any, None, None, 0, 0);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => dst = ip(address)?,
                RouteAttribute::Gateway(address) => via = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::Oif(index) => link = *index,
                RouteAttribute::Priority(priority) => metric = *priority,
                _ => {}
            }
        }
        let dst = IpNet::new(dst, header.destination_prefix_length).ok()?;
        Some(Self { route: Route { dst, via, link, source }, ours: header.protocol == PROTOCOL, metric })
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
