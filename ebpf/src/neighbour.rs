//! IPv6 neighbour discovery (RFC 4861).

use aya_ebpf::programs::TcContext;

use crate::{
    frame::load,
    words::{Half, Ip, MacWord},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Option type 2 of length 1 (in units of eight bytes), as a half of the packet.
const TARGET_LINK_ADDRESS: Half = 0x0201u16.to_be();

/// Only with this hop limit is a packet neighbour discovery: it has crossed no router.
pub(crate) const HOP_LIMIT: u8 = 255;

/// Extension headers looked behind. Linux accepts neighbour discovery behind them, so they must not be a way past
/// the guard; nobody who means well sends even one.
const MAX_EXTENSIONS: usize = 3;

/// What a packet claims by neighbour discovery.
pub(crate) enum Claim {
    /// None: another kind of packet.
    None,
    /// This address, and if it says so for this MAC.
    Address(Ip, Option<MacWord>),
    /// Cut short, or hidden behind more headers than are looked behind.
    Malformed,
}

/// Looks for a claim in a packet whose hop limit is [`HOP_LIMIT`], with `next` in its IPv6 header, which ends at
/// `offset`. A solicitation makes a claim only as duplicate address detection, from the unspecified source.
#[inline(always)]
pub(crate) fn claim(ctx: &TcContext, source: Ip, mut next: u8, mut offset: usize) -> Claim {
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
            break;
        }
        let Some([following, length]) = load::<[u8; 2]>(ctx, offset) else { return Claim::Malformed };
        next = following;
        offset += (length as usize + 1) * 8;
    }
    match next {
        ICMPV6 => {}
        HOP_BY_HOP | ROUTING | DESTINATION => return Claim::Malformed,
        // Fragmented neighbour discovery, too, is ignored by its receivers (RFC 6980).
        _ => return Claim::None,
    }
    let Some([kind]) = load::<[u8; 1]>(ctx, offset) else { return Claim::Malformed };
    match kind {
        ADVERTISEMENT => {
            let Some(target) = load(ctx, offset + 8) else { return Claim::Malformed };
            let mac = match load::<[Half; 4]>(ctx, offset + 24) {
                Some([TARGET_LINK_ADDRESS, a, b, c]) => Some(MacWord::new([a, b, c])),
                _ => None,
            };
            Claim::Address(Ip::v6(target), mac)
        }
        SOLICITATION if source.is_unspecified() => match load(ctx, offset + 8) {
            Some(target) => Claim::Address(Ip::v6(target), None),
            None => Claim::Malformed,
        },
        _ => Claim::None,
    }
}
