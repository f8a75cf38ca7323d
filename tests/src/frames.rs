//! Frames made by hand, including ones that no well-behaved stack sends.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// IEEE's number for local experiments: neither IP nor ARP.
const EXPERIMENT: u16 = 0x88b5;

/// Returns a broadcast Ethernet frame from `source`.
pub fn ethernet(source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&BROADCAST[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Returns an IPv4 datagram of UDP with `text` in it, to the limited broadcast address.
pub fn ipv4(source: Mac, address: Ipv4Addr, text: &str) -> Vec<u8> {
    ipv4_to(source, address, Ipv4Addr::BROADCAST, text)
}

/// Returns the same to another address, still in a broadcast frame.
pub fn ipv4_to(source: Mac, address: Ipv4Addr, destination: Ipv4Addr, text: &str) -> Vec<u8> {
    let udp = udp(text);
    let length = length(20 + udp.len());
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(address.octets());
    header.extend(destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(source, IPV4, &[header, udp].concat())
}

/// Returns an IPv6 datagram of UDP with `text` in it, to all nodes.
pub fn ipv6(source: Mac, address: Ipv6Addr, text: &str) -> Vec<u8> {
    ipv6_packet(source, address, 64, 17, &udp(text))
}

/// Returns an IPv6 packet with any header behind.
pub fn ipv6_packet(source: Mac, address: Ipv6Addr, hop_limit: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length(payload.len()).to_be_bytes());
    header.extend([next, hop_limit]);
    header.extend(address.octets());
    header.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    ethernet(source, IPV6, &[&header[..], payload].concat())
}

/// Returns an ARP announcement: `address` is at `mac`.
pub fn arp(source: Mac, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp_packet(source, 2, mac, address, address)
}

/// Returns an ARP probe (RFC 5227) for `address`.
pub fn arp_probe(source: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp_packet(source, 1, source, Ipv4Addr::UNSPECIFIED, address)
}

fn arp_packet(source: Mac, operation: u16, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(mac);
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    ethernet(source, ARP, &packet)
}

/// Returns a neighbour advertisement: `target` is at `mac`, says `address`.
pub fn advertisement(source: Mac, address: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    ipv6_packet(source, address, 255, 58, &advertisement_body(target, mac))
}

/// Returns the same behind an empty destination options header, which a simple filter does not parse.
pub fn hidden_advertisement(source: Mac, address: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    ipv6_packet(source, address, 255, 60, &[&options[..], &advertisement_body(target, mac)].concat())
}

/// Returns the same with other options before the one that has the target's address.
pub fn wordy_advertisement(source: Mac, address: Ipv6Addr, target: Ipv6Addr, mac: Mac, options: usize) -> Vec<u8> {
    let mut body = advertisement_body(target, mac);
    let link_address = body.split_off(24);
    // Nonces (RFC 3971), of one and of two units in turn.
    for number in 0..options {
        let units = 1 + number % 2;
        body.extend([14, if units == 1 { 1 } else { 2 }]);
        body.extend(vec![7; 8 * units - 2]);
    }
    body.extend(link_address);
    ipv6_packet(source, address, 255, 58, &body)
}

fn advertisement_body(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // The override flag, and no checksum: no receiver in these tests checks it.
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(target.octets());
    body.extend([2, 1]);
    body.extend(mac);
    body
}

/// Returns a solicitation: `address`, which is at `mac`, asks for `target`.
pub fn solicitation(source: Mac, address: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(target.octets());
    body.extend([1, 1]);
    body.extend(mac);
    ipv6_packet(source, address, 255, 58, &body)
}

/// Returns a router solicitation: `address` is at `mac`.
pub fn router_solicitation(source: Mac, address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut body = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    body.extend(mac);
    ipv6_packet(source, address, 255, 58, &body)
}

/// Returns a redirect by `address`: the next hop to `destination` is `target`, which is at `mac` if that is given.
pub fn redirect(source: Mac, address: Ipv6Addr, target: Ipv6Addr, destination: Ipv6Addr, mac: Option<Mac>) -> Vec<u8> {
    let mut body = vec![137, 0, 0, 0, 0, 0, 0, 0];
    body.extend(target.octets());
    body.extend(destination.octets());
    if let Some(mac) = mac {
        body.extend([2, 1]);
        body.extend(mac);
    }
    ipv6_packet(source, address, 255, 58, &body)
}

/// Returns a solicitation of duplicate address detection for `target`.
pub fn detection(source: Mac, target: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(target.octets());
    ipv6_packet(source, Ipv6Addr::UNSPECIFIED, 255, 58, &body)
}

/// Returns a frame that is neither IP nor ARP, with `text` in it.
pub fn other(source: Mac, text: &str) -> Vec<u8> {
    ethernet(source, EXPERIMENT, text.as_bytes())
}

/// Returns the frame with a VLAN tag put in.
pub fn tagged(frame: &[u8], protocol: u16, vlan: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// Returns the frame as a packet socket hears it: the kernel takes the outermost VLAN tag off first.
pub fn received(frame: &[u8]) -> Vec<u8> {
    match frame[12..14] {
        [0x81, 0x00] | [0x88, 0xa8] => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

fn udp(text: &str) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(9u16.to_be_bytes());
    udp.extend(9u16.to_be_bytes());
    udp.extend(length(8 + text.len()).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(text.as_bytes());
    udp
}

/// Returns a length as a 16-bit field. No frame here is longer.
fn length(value: usize) -> u16 {
    value.try_into().unwrap_or(u16::MAX)
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !length(((folded & 0xffff) + (folded >> 16)) as usize)
}
