//! IPv6 neighbour discovery (RFC 4861).

use aya_ebpf::programs::TcContext;

use crate::{
    ethernet::load,
    packed::{HalfWord, Ip, MacWord},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Option types: source and target link-layer address.
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// The hop limit of neighbour discovery, which shows that the packet has crossed no router.
pub(crate) const HOP_LIMIT: u8 = 255;

/// The limit on extension headers. Linux accepts neighbour discovery behind them, so they must not bypass the guard;
/// a regular sender uses none.
const MAX_EXTENSIONS: usize = 3;

/// The limit on options. A regular sender uses at most two.
const MAX_OPTIONS: usize = 4;

/// A claim that a packet makes by neighbour discovery.
pub(crate) enum Claim {
    /// No claim: another kind of packet, or a solicitation without a MAC.
    None,
    /// The packet's source has this MAC. The receiver of a solicitation learns the MAC of its sender.
    Source(MacWord),
    /// The target, with this MAC if the packet has the option.
    Target(Ip, Option<MacWord>),
    /// The target is the next hop to the destination, with this MAC if the packet has the option. The packet's source
    /// is a router's link-local address and proves nothing, so the packet claims both addresses. `destination` is the
    /// offset of the address in the packet: the stack has no room for the address.
    Redirect { target: Ip, destination: usize, mac: Option<MacWord> },
    /// The packet ends inside a header, or exceeds the limit on extension headers or options.
    Malformed,
}

/// Returns the claim of a packet with [`HOP_LIMIT`]. `next` is the next header in its IPv6 header, which ends at
/// `offset`. A solicitation claims its target only in duplicate address detection, with the unspecified source.
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
        // Includes fragments: receivers ignore fragmented neighbour discovery (RFC 6980).
        _ => return Claim::None,
    }
    let Some([kind]) = load::<[u8; 1]>(ctx, offset) else { return Claim::Malformed };
    // One arm per type, because no condition may be evaluated again behind a call; see the crate's docs.
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
        // Duplicate address detection. Receivers discard it with a source link-layer address option.
        SOLICITATION if source.is_unspecified() => match address(ctx, offset + 8) {
            Some(target) => Claim::Target(target, None),
            None => Claim::Malformed,
        },
        SOLICITATION => source_claim(link_address(ctx, offset + 24, SOURCE_LINK_ADDRESS)),
        ROUTER_SOLICITATION => source_claim(link_address(ctx, offset + 8, SOURCE_LINK_ADDRESS)),
        _ => Claim::None,
    }
}

/// Returns the claim of a solicitation for its source.
#[inline(always)]
fn source_claim(mac: u64) -> Claim {
    match mac {
        NO_OPTION => Claim::None,
        TOO_MANY_OPTIONS => Claim::Malformed,
        mac => Claim::Source(MacWord::from_word(mac)),
    }
}

/// Returns the address at `offset`.
#[inline(always)]
pub(crate) fn address(ctx: &TcContext, offset: usize) -> Option<Ip> {
    load(ctx, offset).map(Ip::v6)
}

/// Results of [`link_address`] that are not a MAC: more than its six bytes.
const NO_OPTION: u64 = 1 << 62;
const TOO_MANY_OPTIONS: u64 = 1 << 63;

/// Returns the MAC in the first option of type `wanted` in the list of options at `offset`.
///
/// A packet with an option of length zero or with a truncated one claims nothing, because receivers discard it. The
/// first option of a type counts, as on Linux.
#[inline(never)]
fn link_address(ctx: &TcContext, mut offset: usize, wanted: u8) -> u64 {
    for _ in 0..MAX_OPTIONS {
        let Some([head, a, b, c]) = load::<[HalfWord; 4]>(ctx, offset) else { return NO_OPTION };
        let [kind, length] = head.to_ne_bytes();
        if length == 0 {
            return NO_OPTION;
        }
        if kind == wanted {
            return MacWord::new([a, b, c]).word();
        }
        offset += length as usize * 8;
    }
    match load::<[HalfWord; 4]>(ctx, offset) {
        Some(_) => TOO_MANY_OPTIONS,
        None => NO_OPTION,
    }
}
