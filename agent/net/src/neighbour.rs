//! Neighbours and proxies as values, and as the messages they travel in.

use std::net::IpAddr;

use holdfast_core::mac::Mac;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{
    message::{PROTOCOL, family},
    netlink::{Intent, Request},
};

/// A permanent neighbour: nobody has to ask for it and nothing makes it forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) address: IpAddr,
    pub(super) link: u32,
    pub(super) mac: Mac,
}

impl Neighbour {
    pub(super) fn replace(self) -> Request {
        let mut message = neighbour(self.address, self.link);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        Request::new(
            Intent::Replace,
            RouteNetlinkMessage::NewNeighbour(message),
            format!("add neighbour {}", self.address),
        )
    }

    pub(super) fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        if message.header.state != NeighbourState::Permanent {
            return None;
        }
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
            _ => None,
        })?;
        Some(Self { address: destination(message)?, link: message.header.ifindex, mac })
    }

    pub(super) fn all(link: u32) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.attributes.push(NeighbourAttribute::IfIndex(link));
        RouteNetlinkMessage::GetNeighbour(message)
    }
}

/// An entry of the neighbour table, whoever made it: somebody, or the kernel that has asked for the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) address: IpAddr,
    pub(super) link: u32,
    pub(super) ours: bool,
    pub(super) permanent: bool,
}

impl Entry {
    pub(super) fn remove(self) -> Request {
        let what = format!("forget neighbour {} of interface {}", self.address, self.link);
        let message = neighbour(self.address, self.link);
        Request::new(Intent::Remove, RouteNetlinkMessage::DelNeighbour(message), what)
    }

    pub(super) fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        Some(Self {
            address: destination(message)?,
            link: message.header.ifindex,
            ours: message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL)),
            permanent: message.header.state == NeighbourState::Permanent,
        })
    }

    /// Those of one link, or of all.
    pub(super) fn all(link: Option<u32>) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.attributes.extend(link.map(NeighbourAttribute::IfIndex));
        RouteNetlinkMessage::GetNeighbour(message)
    }
}

/// An address that the node answers for on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) address: IpAddr,
    pub(super) link: u32,
}

impl Proxy {
    pub(super) fn replace(self) -> Request {
        let what = format!("answer for {}", self.address);
        Request::new(Intent::Replace, RouteNetlinkMessage::NewNeighbour(self.message()), what)
    }

    pub(super) fn remove(self) -> Request {
        let what = format!("stop answering for {}", self.address);
        Request::new(Intent::Remove, RouteNetlinkMessage::DelNeighbour(self.message()), what)
    }

    fn message(self) -> NeighbourMessage {
        let mut message = neighbour(self.address, self.link);
        message.header.flags = NeighbourFlags::Proxy;
        // Newer kernels keep a permanent one when the interface loses its carrier.
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        message
    }

    /// Only proxies of ours: what an administrator set up stays.
    pub(super) fn parse_ours(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        let ours = message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL));
        if !ours || !message.header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        Some(Self { address: destination(message)?, link: message.header.ifindex })
    }

    pub(super) fn all() -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        // The flag has to be the only one for the kernel to take the other table.
        message.header.flags = NeighbourFlags::Proxy;
        RouteNetlinkMessage::GetNeighbour(message)
    }
}

fn neighbour(address: IpAddr, link: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    message
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}
