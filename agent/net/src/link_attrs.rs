//! Interfaces as rtnetlink describes them, and the messages that read and change them.

use holdfast_core::{id::IfName, mac::Mac};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage},
    },
};

use super::{
    error::NetError,
    netlink::{Intent, Request, Socket},
};

/// The attributes of an interface that this crate uses.
#[derive(Debug, Clone)]
pub(super) struct LinkAttrs {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// `IFF_RUNNING`: up and with a carrier, and linkwatch has noticed both, so the interface sends.
    pub(super) running: bool,
    /// The index of a veth's other end in that end's namespace.
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

    /// Returns the request for the interface of that name.
    pub(super) fn get(name: &IfName) -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(without_statistics(LinkUnspec::new_with_name(name.as_str())).build())
    }

    fn get_index(index: u32) -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(without_statistics(LinkUnspec::new_with_index(index)).build())
    }

    /// Returns the interface of that name; `None` if there is no such interface.
    pub(super) fn find(socket: &Socket, name: &IfName) -> Result<Option<Self>, NetError> {
        read(socket, Self::get(name), &format!("read interface {name}"))
    }

    /// Returns the interface with that index; `None` if there is no such interface.
    pub(super) fn find_index(socket: &Socket, index: u32) -> Result<Option<Self>, NetError> {
        read(socket, Self::get_index(index), &format!("read interface {index}"))
    }

    /// Returns all interfaces of the socket's namespace.
    pub(super) fn list(socket: &Socket) -> Result<Vec<Self>, NetError> {
        let all = without_statistics(LinkMessageBuilder::<LinkUnspec>::default()).build();
        let found = socket.dump(&RouteNetlinkMessage::GetLink(all), "list interfaces")?;
        Ok(found.iter().filter_map(Self::parse).collect())
    }
}

fn without_statistics(builder: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
    builder.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

/// Returns the request that changes an existing interface.
pub(super) fn set_link(link: LinkMessage, what: impl Into<String>) -> Request {
    Request::new(Intent::Change, RouteNetlinkMessage::SetLink(link), what)
}

fn read(socket: &Socket, message: RouteNetlinkMessage, what: &str) -> Result<Option<LinkAttrs>, NetError> {
    let requests = [Request::new(Intent::Change, message, what)];
    let reply = socket.exchange(&requests)?.pop().unwrap_or_default();
    match (reply.errno(), reply.error) {
        (Some(libc::ENODEV), _) => Ok(None),
        (_, Some(error)) => Err(socket.refused(what, error)),
        (_, None) => Ok(reply.messages.iter().find_map(LinkAttrs::parse)),
    }
}
