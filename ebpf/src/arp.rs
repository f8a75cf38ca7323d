//! ARP for IPv4 over Ethernet.

use aya_ebpf::programs::TcContext;

use crate::{
    ethernet::read,
    packed::{HalfWord, Ip, MacWord},
};

/// The protocol type IPv4, and the lengths of a MAC and an IPv4 address, as they are in a packet.
const IPV4: HalfWord = 0x0800u16.to_be();
const LENGTHS: HalfWord = 0x0604u16.to_be();

/// The fields of an ARP packet that the guard checks.
pub(crate) struct Arp {
    pub(crate) sender_mac: MacWord,
    sender: [HalfWord; 2],
    target: [HalfWord; 2],
}

/// The result of parsing an ARP packet.
pub(crate) enum Parsed {
    Arp(Arp),
    /// ARP for a protocol other than IPv4.
    Other,
    /// The packet ends inside the header.
    Malformed,
}

impl Arp {
    /// Parses the packet at `offset`.
    ///
    /// Ignores the hardware type, as Linux does on Ethernet.
    #[inline(always)]
    pub(crate) fn parse(ctx: &TcContext, offset: usize) -> Parsed {
        match read::<14>(ctx, offset) {
            Some([_, IPV4, LENGTHS, _, a, b, c, s, t, _, _, _, u, v]) => {
                Parsed::Arp(Self { sender_mac: MacWord::new([a, b, c]), sender: [s, t], target: [u, v] })
            }
            Some(_) => Parsed::Other,
            None => Parsed::Malformed,
        }
    }

    /// Returns the sender's address, or `None` in a probe (RFC 5227).
    #[inline(always)]
    pub(crate) fn sender(&self) -> Option<Ip> {
        (self.sender != [0, 0]).then(|| Ip::v4(self.sender))
    }

    /// Returns the target's address.
    #[inline(always)]
    pub(crate) fn target(&self) -> Ip {
        Ip::v4(self.target)
    }

    /// Returns the address that the packet claims: the sender's, or in a probe the target's. Two hosts that probe for
    /// one address make each other give up, so a stale container's probe is fenced like any other packet.
    #[inline(always)]
    pub(crate) fn claims(&self) -> Ip {
        self.sender().unwrap_or_else(|| self.target())
    }
}
