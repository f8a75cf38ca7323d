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

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Option types: the link-layer address of a packet's source, and of its target.
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Only with this hop limit is a packet neighbour discovery: it has crossed no router.
pub(crate) const HOP_LIMIT: u8 = 255;

/// Extension headers looked behind. Linux accepts neighbour discovery behind them, so they must not be a way past
/// the guard; nobody who means well sends even one.
const MAX_EXTENSIONS: usize = 3;

/// Options looked at. Nobody who means well sends more than two.
const MAX_OPTIONS: usize = 4;

/// What a packet claims by neighbour discovery.
pub(crate) enum Claim {
    /// None: another kind of packet, or a question.
    None,
    /// That its source is at this MAC. Whoever is asked learns the asker's from the question.
    Source(MacWord),
    /// This address, and if it says so for this MAC.
    Target(Ip, Option<MacWord>),
    /// That the way to the destination leads by the target, and if it says so that the target is at this MAC. It comes
    /// from a router's link-local address, which says nothing, and both addresses are taken at their word. The
    /// destination is to be read from the packet: the stack has no room for it.
    Redirect { target: Ip, destination: usize, mac: Option<MacWord> },
    /// Cut short, hidden behind more headers than are looked behind, or with more options than are looked at.
    Malformed,
}

/// Looks for a claim in a packet whose hop limit is [`HOP_LIMIT`], with `next` in its IPv6 header, which ends at
/// `offset`. A solicitation makes a claim on its target only as duplicate address detection, from the unspecified source.
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
    // Each kind by itself: see the crate's docs for what must not be carried across a call.
    match kind {
        ADVERTISEMENT => {
            let Some(target) = address(ctx, offset + 8) else { return Claim::Malformed };
            match link_address(ctx, offset + 24, TARGET_LINK_ADDRESS) {
                NO_OPTION => Claim::Target(target, None),
                TOO_MANY_OPTIONS => Claim::Malformed,
                mac => Claim::Target(target, Some(MacWord::from_word(mac))),
            }
        }
        REDIRECT => {
            let Some(target) = address(ctx, offset + 8) else { return Claim::Malformed };
            let destination = offset + 24;
            match link_address(ctx, offset + 40, TARGET_LINK_ADDRESS) {
                NO_OPTION => Claim::Redirect { target, destination, mac: None },
                TOO_MANY_OPTIONS => Claim::Malformed,
                mac => Claim::Redirect { target, destination, mac: Some(MacWord::from_word(mac)) },
            }
        }
        // Duplicate address detection. Receivers discard it if it says where its source is.
        SOLICITATION if source.is_unspecified() => match address(ctx, offset + 8) {
            Some(target) => Claim::Target(target, None),
            None => Claim::Malformed,
        },
        SOLICITATION => asker(link_address(ctx, offset + 24, SOURCE_LINK_ADDRESS)),
        ROUTER_SOLICITATION => asker(link_address(ctx, offset + 8, SOURCE_LINK_ADDRESS)),
        _ => Claim::None,
    }
}

/// What a question says of its asker.
#[inline(always)]
fn asker(mac: u64) -> Claim {
    match mac {
        NO_OPTION => Claim::None,
        TOO_MANY_OPTIONS => Claim::Malformed,
        mac => Claim::Source(MacWord::from_word(mac)),
    }
}

/// The address at `offset`.
#[inline(always)]
pub(crate) fn address(ctx: &TcContext, offset: usize) -> Option<Ip> {
    load(ctx, offset).map(Ip::v6)
}

/// What [`link_address`] gives where there is no MAC: more than a MAC's six bytes.
const NO_OPTION: u64 = 1 << 62;
const TOO_MANY_OPTIONS: u64 = 1 << 63;

/// The MAC in the first option of this type among those at `offset`.
///
/// Receivers discard a packet with an option of no length, or with one that is cut short; it claims nothing. They take
/// the first option of a type, and those that take another one are none of ours.
#[inline(never)]
fn link_address(ctx: &TcContext, mut offset: usize, wanted: u8) -> u64 {
    for _ in 0..MAX_OPTIONS {
        let Some([head, a, b, c]) = load::<[Half; 4]>(ctx, offset) else { return NO_OPTION };
        let [kind, length] = head.to_ne_bytes();
        if length == 0 {
            return NO_OPTION;
        }
        if kind == wanted {
            return MacWord::new([a, b, c]).word();
        }
        offset += length as usize * 8;
    }
    match load::<[Half; 4]>(ctx, offset) {
        Some(_) => TOO_MANY_OPTIONS,
        None => NO_OPTION,
    }
}
