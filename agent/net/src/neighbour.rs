//! Neighbours and proxies as values, and the rtnetlink messages that carry them.

use std::net::IpAddr;

use holdfast_core::mac::Mac;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{
    errno::errno,
    error::NetError,
    netlink::{Intent, Request, Socket},
    protocol::{PROTOCOL, family},
};

/// A permanent neighbour: the kernel neither resolves it nor lets it expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) address: IpAddr,
    pub(super) link: u32,
    pub(super) mac: Mac,
}

impl Neighbour {
    /// Returns the request that adds the neighbour or changes the one that is there.
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

    /// Returns the permanent neighbours on a link.
    pub(super) fn list(socket: &Socket, link: u32) -> Result<Vec<Self>, NetError> {
        let found = socket.dump(&dump_request(Some(link)), "list neighbours")?;
        Ok(found.iter().filter_map(Self::parse).filter(|found| found.link == link).collect())
    }

    fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
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
}

/// An entry of the neighbour table, configured or learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) address: IpAddr,
    pub(super) link: u32,
    /// It carries our [`PROTOCOL`] number.
    pub(super) ours: bool,
    pub(super) permanent: bool,
}

impl Entry {
    pub(super) fn remove(self) -> Request {
        let what = format!("remove neighbour {} of interface {}", self.address, self.link);
        let message = neighbour(self.address, self.link);
        Request::new(Intent::Remove, RouteNetlinkMessage::DelNeighbour(message), what)
    }

    /// Returns the neighbour table, of one link or of all. A link that is gone has no entries.
    pub(super) fn list(socket: &Socket, link: Option<u32>) -> Result<Vec<Self>, NetError> {
        match socket.dump(&dump_request(link), "list neighbours") {
            Ok(found) => {
                let found = found.iter().filter_map(Self::parse);
                Ok(found.filter(|entry| link.is_none_or(|link| entry.link == link)).collect())
            }
            Err(NetError::Refused { source, .. }) if errno(&source) == Some(libc::ENODEV) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn parse(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        Some(Self {
            address: destination(message)?,
            link: message.header.ifindex,
            ours: message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL)),
            permanent: message.header.state == NeighbourState::Permanent,
        })
    }
}

/// An address that the node answers ARP or NDP for on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) address: IpAddr,
    pub(super) link: u32,
}

impl Proxy {
    /// Returns the request that adds the proxy or changes the one that is there.
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
        // Newer kernels keep a permanent proxy when the interface loses its carrier.
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
        message
    }

    /// Returns the proxies of ours. An administrator's are not in it, so that they are never removed.
    pub(super) fn list_ours(socket: &Socket) -> Result<Vec<Self>, NetError> {
        let mut message = NeighbourMessage::default();
        // The kernel dumps the proxy table only if this is the only flag.
        message.header.flags = NeighbourFlags::Proxy;
        let found = socket.dump(&RouteNetlinkMessage::GetNeighbour(message), "list proxied addresses")?;
        Ok(found.iter().filter_map(Self::parse_ours).collect())
    }

    fn parse_ours(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        let ours = message.attributes.contains(&NeighbourAttribute::Protocol(PROTOCOL));
        if !ours || !message.header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        Some(Self { address: destination(message)?, link: message.header.ifindex })
    }
}

/// Returns the request for the neighbours of one link, or of all.
fn dump_request(link: Option<u32>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.attributes.extend(link.map(NeighbourAttribute::IfIndex));
    RouteNetlinkMessage::GetNeighbour(message)
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
