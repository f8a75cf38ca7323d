//! Gratuitous ARP and unsolicited neighbour advertisements: they make hosts and switches on the LAN replace the MAC
//! that an address had before.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use holdfast_core::mac::Mac;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};

use super::{error::NetError, link::Uplink};

/// The pauses before each repeated announcement. A switch or a host may have been busy with the first one, and a plugin
/// that creates its own interface sets the address only after it has got it.
const REPEAT_AFTER: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

const ETHERNET: usize = 14;
const BROADCAST: Mac = Mac([0xff; 6]);
/// The MAC address of the IPv6 group of all nodes, `ff02::1`.
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;

/// A packet socket for announcements. It stays open, because the close of a packet socket waits for an RCU grace period
/// (`synchronize_net`), some 10 ms.
#[derive(Debug)]
pub(super) struct Announcer(OwnedFd);

impl Announcer {
    /// A socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetError> {
        // With protocol 0 the socket receives no packets.
        let opened = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
        opened.map(Self).map_err(|errno| error(errno.into()))
    }

    /// Announces once that the addresses are at the uplink's MAC.
    pub(super) fn send(&self, uplink: &Uplink, addresses: impl Iterator<Item = IpAddr>) -> Result<(), NetError> {
        let target = link_address(uplink);
        for frame in addresses.flat_map(|address| frames(uplink.mac, address)) {
            sendto(self.0.as_raw_fd(), &frame, &target, MsgFlags::MSG_DONTWAIT).map_err(|errno| error(errno.into()))?;
        }
        Ok(())
    }
}

/// Repeats an announcement within two seconds. `announce` returns false if there is nothing to announce any more, which
/// ends the repetition.
pub(super) async fn repeat<F: Future<Output = Result<bool, NetError>>>(mut announce: impl FnMut() -> F) {
    for pause in REPEAT_AFTER {
        tokio::time::sleep(pause).await;
        match announce().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::debug!(%error, "an announcement could not be repeated"),
        }
    }
}

fn error(source: io::Error) -> NetError {
    NetError::Socket { kind: "packet", source }
}

/// Returns the interface as the address to which a packet socket sends.
fn link_address(uplink: &Uplink) -> LinkAddr {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET.cast_unsigned().try_into().unwrap_or_default(),
        sll_protocol: 0,
        sll_ifindex: uplink.index.0.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).ok();
    #[allow(unsafe_code)]
    // SAFETY: the pointer is to a whole, initialised `sockaddr_ll` that outlives the call, the length is its
    // length, and its family is AF_PACKET, as `LinkAddr` demands; the call copies it.
    let parsed = unsafe { LinkAddr::from_raw((&raw const address).cast(), length) };
    parsed.expect("family and length are a LinkAddr's")
}

/// Returns the frames that announce `address` at `mac`. For IPv4 these are both forms of a gratuitous ARP, because some
/// hosts accept only one of them (RFC 5227, section 3).
fn frames(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![arp(mac, ip, 1, Mac([0; 6])), arp(mac, ip, 2, mac)],
        IpAddr::V6(ip) => vec![advertisement(mac, ip)],
    }
}

fn ethernet(destination: Mac, source: Mac, kind: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + payload);
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend(kind.to_be_bytes());
    frame
}

/// Returns an ARP packet (RFC 826, Ethernet and IPv4) with the same sender and target address.
fn arp(mac: Mac, ip: Ipv4Addr, operation: u16, target: Mac) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, 0x0806, 28);
    frame.extend([0, 1, 0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac.0);
    frame.extend(ip.octets());
    frame.extend(target.0);
    frame.extend(ip.octets());
    frame
}

/// Returns a neighbour advertisement (RFC 4861, section 4.4) to all nodes, with the override flag. Its source is the
/// address itself, as a host with that address would send it.
fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    // Option: target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac.0);
    let sum = checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, 0x86dd, 40 + message.len());
    frame.extend([0x60, 0, 0, 0, 0, u8::try_from(message.len()).unwrap_or_default(), ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// Returns the Internet checksum over the pseudo-header (RFC 8200, section 8.1) and an `ICMPv6` message of even length.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6], message].concat();
    let mut sum: u32 = pseudo.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x02, 0, 0x5e, 0, 0x53, 1]);

    #[test]
    fn a_gratuitous_arp_has_the_address_as_sender_and_target() {
        let frames = frames(MAC, "192.0.2.7".parse().unwrap());
        assert_eq!(frames.len(), 2);
        for (frame, operation) in frames.iter().zip([1, 2]) {
            assert_eq!(frame.len(), 42);
            assert_eq!(frame[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0x5e, 0, 0x53, 1, 0x08, 0x06]);
            assert_eq!(frame[20..22], [0, operation]);
            assert_eq!(frame[22..28], MAC.0);
            assert_eq!(frame[28..32], [192, 0, 2, 7]);
            assert_eq!(frame[38..42], [192, 0, 2, 7]);
        }
    }

    #[test]
    fn an_advertisements_checksum_is_right() {
        let ip: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let frame = advertisement(MAC, ip);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let message = &frame[54..];
        assert_eq!(message[4], 0x20, "override, neither router nor solicited");
        assert_eq!(frame[14 + 7], 255, "hop limit");
        // The sum over a message that contains its right checksum is 0.
        assert_eq!(checksum(ip, ALL_NODES, message), 0);
        assert_ne!(message[2..4], [0, 0]);
    }

    #[tokio::test]
    async fn announcements_are_repeated_after_errors_until_there_is_nothing_to_announce() {
        let mut outcomes = vec![Ok(false), Err(error(io::ErrorKind::NetworkDown.into()))];
        let mut calls = 0;
        repeat(|| {
            calls += 1;
            std::future::ready(outcomes.pop().expect("no announcement after the last one"))
        })
        .await;
        assert_eq!((calls, REPEAT_AFTER.len()), (2, 3));
    }
}
