//! The addresses that a frame uses, and the verdict on them.
//!
//! ```text
//! IPv4  source
//! IPv6  source, and in neighbour discovery: redirect's destination, target
//! ARP   sender, or in a probe the target
//! ```
//!
//! [`check_frame`] finds them; a [`Policy`] returns the verdict on each.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use holdfast_abi::{VIA_ARP, VIA_IP, VIA_ND};

use crate::{
    arp::{self, Arp},
    ethernet::{self, Ethernet},
    ip::{self, Ipv6},
    ndp::{self, Claim},
    packed::{Ip, MacWord},
};

/// Continues with the next program: `TCX_NEXT` on the tcx hook, `TC_ACT_UNSPEC` on clsact.
pub(crate) const PASS: i32 = TC_ACT_UNSPEC;
/// Drops the packet.
pub(crate) const DROP: i32 = TC_ACT_SHOT;

/// One use of an address by a frame.
pub(crate) struct AddressUse {
    pub(crate) address: Ip,
    /// The link whose bindings apply.
    pub(crate) link: u32,
    pub(crate) ethertype: u16,
    /// `VIA_*`.
    pub(crate) via: u8,
    /// The frame's source MAC.
    pub(crate) mac: MacWord,
    /// The MAC that the payload claims for the address.
    pub(crate) claimed_mac: MacWord,
}

/// The verdicts of one kind of attachment point.
pub(crate) trait Policy {
    /// Returns the verdict on the last address that a frame uses, which is the only one of most frames.
    fn check(ctx: &TcContext, used: &AddressUse) -> i32;

    /// Returns the same verdict on any other address. It is not the hot path and is called from several places, so it
    /// must not be inlined.
    fn check_outlined(ctx: &TcContext, used: &AddressUse) -> i32;

    /// Returns the verdict on a frame that ends inside a header.
    fn malformed(ctx: &TcContext, link: u32) -> i32;

    /// Returns the verdict on an IPv6 packet with malformed neighbour discovery; `used` is its source.
    fn malformed_claim(ctx: &TcContext, used: &AddressUse) -> i32;

    /// Returns the verdict on a frame that uses no address.
    fn no_address(link: u32, ethertype: u16, mac: MacWord) -> i32;
}

/// Returns the policy's verdict on a frame: `DROP` as soon as one of its addresses is refused.
#[inline(always)]
pub(crate) fn check_frame<P: Policy>(ctx: &TcContext, ethernet: &Ethernet, link: u32) -> i32 {
    let Ethernet { source: mac, ethertype, payload } = *ethernet;
    // Constructed once its address is known: LLVM would clear a partly filled one first, in a loop over its bytes.
    let using = |address, via, claimed_mac| AddressUse { address, link, ethertype, via, mac, claimed_mac };
    // One stack slot for all addresses of the frame.
    let mut used;
    match ethertype {
        ethernet::IPV4 => {
            let Some(source) = ip::v4_source(ctx, payload) else { return P::malformed(ctx, link) };
            used = using(source, VIA_IP, mac);
        }
        ethernet::IPV6 => {
            let Some(header) = Ipv6::parse(ctx, payload) else { return P::malformed(ctx, link) };
            used = using(header.source, VIA_IP, mac);
            if header.hop_limit == ndp::HOP_LIMIT {
                let claim = ndp::claim(ctx, header.source, header.next, payload + Ipv6::LENGTH);
                let verdict = check_claim::<P>(ctx, &mut used, claim);
                if verdict != PASS {
                    return verdict;
                }
            }
        }
        ethernet::ARP => match Arp::parse(ctx, payload) {
            arp::Parsed::Arp(arp) => used = using(arp.claims(), VIA_ARP, arp.sender_mac),
            arp::Parsed::Other => return P::no_address(link, ethertype, mac),
            arp::Parsed::Malformed => return P::malformed(ctx, link),
        },
        _ => return P::no_address(link, ethertype, mac),
    }
    P::check(ctx, &used)
}

/// Checks the addresses of a neighbour discovery packet, from its source in `used` on, except the last, which it leaves
/// in `used` for the caller to check.
#[inline(always)]
fn check_claim<P: Policy>(ctx: &TcContext, used: &mut AddressUse, claim: Claim) -> i32 {
    let mac = used.mac;
    let (target, claimed) = match claim {
        Claim::None => return PASS,
        Claim::Malformed => return P::malformed_claim(ctx, used),
        Claim::Source(claimed) => (used.address, claimed),
        Claim::Target(target, claimed) => {
            let claimed = claimed.unwrap_or(mac);
            let verdict = P::check_outlined(ctx, used);
            if verdict != PASS {
                return verdict;
            }
            (target, claimed)
        }
        Claim::Redirect { target, destination, mac: claimed } => {
            let claimed = claimed.unwrap_or(mac);
            let verdict = P::check_outlined(ctx, used);
            if verdict != PASS {
                return verdict;
            }
            let Some(destination) = ndp::address(ctx, destination) else { return P::malformed_claim(ctx, used) };
            (used.address, used.via) = (destination, VIA_ND);
            let verdict = P::check_outlined(ctx, used);
            if verdict != PASS {
                return verdict;
            }
            (target, claimed)
        }
    };
    (used.address, used.via, used.claimed_mac) = (target, VIA_ND, claimed);
    PASS
}
