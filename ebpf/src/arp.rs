//! ARP for IPv4 over Ethernet.

use aya_ebpf::programs::TcContext;

use crate::{
    frame::read,
    words::{Half, Ip, MacWord},
};

/// Protocol type IPv4, then the lengths of a MAC and an IPv4 address, as halves of the packet.
const IPV4: Half = 0x0800u16.to_be();
const LENGTHS: Half = 0x0604u16.to_be();

/// What an ARP packet says.
pub(crate) struct Arp {
    pub(crate) sender_mac: MacWord,
    sender: [Half; 2],
    target: [Half; 2],
}

/// An ARP packet as the guard needs it.
pub(crate) enum Parsed {
    Arp(Arp),
    /// ARP of protocols that nobody here speaks.
    Other,
    /// Cut short.
    Malformed,
}

impl Arp {
    /// Parses the packet at `offset`.
    ///
    /// The hardware type is not looked at: Linux takes ARP on Ethernet whatever it says.
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

    /// The sender's address; none in a probe (RFC 5227).
    #[inline(always)]
    pub(crate) fn sender(&self) -> Option<Ip> {
        (self.sender != [0, 0]).then(|| Ip::v4(self.sender))
    }

    /// The address asked for.
    #[inline(always)]
    pub(crate) fn target(&self) -> Ip {
        Ip::v4(self.target)
    }

    /// The address this packet makes a claim on: its sender's, or for a probe the one asked for. Two hosts probing for
    /// one address make each other give up, so a stale container's probe has to be fenced like any other packet.
    #[inline(always)]
    pub(crate) fn claims(&self) -> Ip {
        self.sender().unwrap_or_else(|| self.target())
    }
}
