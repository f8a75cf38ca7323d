//! Entries in a host's table of tracked connections, written and read through ctnetlink.

use std::{net::IpAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, bail};
use holdfast_tests::netns::Host;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TIMEOUT: u16 = 7;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;
const UDP: u8 = 17;

/// `NLM_F_REQUEST | NLM_F_ACK`, and `NLM_F_CREATE | NLM_F_EXCL`.
const ACK: u16 = 5;
const CREATE: u16 = 0x600;

/// An entry for a UDP flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    /// The address behind the destination, if it is translated (DNAT).
    server: IpAddr,
    zone: u16,
}

impl Flow {
    pub(crate) fn new(source: &str, destination: &str) -> Self {
        let destination = destination.parse().expect("an address");
        Self { source: source.parse().expect("an address"), destination, port: 4000, server: destination, zone: 0 }
    }

    pub(crate) fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Sets the address behind the destination, as for a Service.
    pub(crate) fn served_by(self, server: &str) -> Self {
        Self { server: server.parse().expect("an address"), ..self }
    }

    pub(crate) fn in_zone(self, zone: u16) -> Self {
        Self { zone, ..self }
    }

    fn original(&self) -> Vec<u8> {
        tuple(ORIGINAL, (self.source, self.port), (self.destination, 53))
    }

    fn zone(&self) -> Vec<u8> {
        if self.zone == 0 { Vec::new() } else { attribute(ZONE, &self.zone.to_be_bytes()) }
    }

    /// Creates the entry, as the first packet of the flow would.
    pub(crate) fn make(&self, host: &Host) -> Result<()> {
        let reply = tuple(REPLY, (self.server, 53), (self.source, self.port));
        let timeout = attribute(TIMEOUT, &300_u32.to_be_bytes());
        let attributes = [self.original(), reply, timeout, self.zone()].concat();
        match host.run(|| request(0, ACK | CREATE, self.source, &attributes))?? {
            0 => Ok(()),
            errno => bail!("{self:?} was not created (is there nf_conntrack_netlink?): {}", errno_text(errno)),
        }
    }

    /// Returns true if the entry exists.
    pub(crate) fn is_tracked(&self, host: &Host) -> Result<bool> {
        let attributes = [self.original(), self.zone()].concat();
        match host.run(|| request(1, ACK, self.source, &attributes))?? {
            0 => Ok(true),
            errno if errno == nix::errno::Errno::ENOENT as i32 => Ok(false),
            errno => bail!("{self:?} was not looked up: {}", errno_text(errno)),
        }
    }
}

fn errno_text(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

/// Sends one request in the thread's namespace, and returns the errno, or 0.
fn request(message: u16, flags: u16, family: IpAddr, attributes: &[u8]) -> Result<i32> {
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let length = u32::try_from(20 + attributes.len())?;
    let mut message_bytes = length.to_ne_bytes().to_vec();
    message_bytes.extend((1 << 8 | message).to_ne_bytes());
    message_bytes.extend(flags.to_ne_bytes());
    message_bytes.extend([0; 8]);
    message_bytes.extend([if family.is_ipv4() { 2 } else { 10 }, 0, 0, 0]);
    message_bytes.extend(attributes);
    send(socket.as_raw_fd(), &message_bytes, MsgFlags::empty()).context("sending to ctnetlink")?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).context("receiving from ctnetlink")?;
    anyhow::ensure!(length >= 20, "an answer of {length} bytes");
    // An acknowledgement is an NLMSG_ERROR too. Any other message is the requested entry.
    let is_error = answer[4..6] == 2_u16.to_ne_bytes();
    Ok(if is_error { -i32::from_ne_bytes(answer[16..20].try_into()?) } else { 0 })
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).expect("a short value").to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn tuple(kind: u16, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Vec<u8> {
    let ends = match (source.0, destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            [attribute(1, &source.octets()), attribute(2, &destination.octets())].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            [attribute(3, &source.octets()), attribute(4, &destination.octets())].concat()
        }
        mixed => panic!("two families: {mixed:?}"),
    };
    let ports =
        [attribute(1, &[UDP]), attribute(2, &source.1.to_be_bytes()), attribute(3, &destination.1.to_be_bytes())];
    let both = [attribute(1 | NESTED, &ends), attribute(2 | NESTED, &ports.concat())];
    attribute(kind | NESTED, &both.concat())
}
