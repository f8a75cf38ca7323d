//! Detection of address conflicts: hosts on the LAN that claim an address bound on this node.

use aya_ebpf::programs::TcContext;
use holdfast_abi::{Counter, EVENT_CONFLICT, VIA_ARP, VIA_ND};

use crate::{
    arp::{self, Arp},
    ethernet::{self, Ethernet},
    events::{add_owner, count, report_limited},
    ip::Ipv6,
    link,
    maps::OWNERS,
    ndp::{self, Claim},
    packed::{Ip, MacWord},
};

/// Reports a claim by a MAC that is not the holder's. It never drops: the agent decides which of the two is right.
#[inline(always)]
pub(crate) fn detect(ctx: &TcContext) -> Option<()> {
    let ethernet = Ethernet::parse(ctx)?;
    match ethernet.ethertype {
        ethernet::ARP => {
            let arp::Parsed::Arp(arp) = Arp::parse(ctx, ethernet.payload) else { return None };
            // A probe has no sender address and claims nothing.
            if let Some(sender) = arp.sender() {
                check_claim(ctx, sender, arp.sender_mac, &ethernet, VIA_ARP);
            }
        }
        ethernet::IPV6 => {
            let header = Ipv6::parse(ctx, ethernet.payload)?;
            // A solicitation from the unspecified source is duplicate address detection, which the holder answers.
            if header.hop_limit != ndp::HOP_LIMIT || header.source.is_unspecified() {
                return None;
            }
            let claim = ndp::claim(ctx, header.source, header.next, ethernet.payload + Ipv6::LENGTH);
            let (address, mac) = match claim {
                Claim::Source(mac) => (header.source, mac),
                Claim::Target(target, mac) => (target, mac.unwrap_or(ethernet.source)),
                // A redirect without a MAC claims none for the target: its sender is the router.
                Claim::Redirect { target, mac: Some(mac), .. } => (target, mac),
                _ => return None,
            };
            check_claim(ctx, address, mac, &ethernet, VIA_ND);
        }
        _ => {}
    }
    None
}

#[inline(always)]
fn check_claim(ctx: &TcContext, address: Ip, mac: MacWord, ethernet: &Ethernet, via: u8) {
    // SAFETY: the agent may remove the entry meanwhile; the claim is then compared with the holder of a moment earlier.
    let Some(owner) = (unsafe { OWNERS.get(address.bytes()) }) else { return };
    let owner_mac = MacWord::of(owner.mac);
    if owner_mac.is_zero() || owner_mac == mac {
        return;
    }
    count(Counter::Conflicts);
    report_limited(EVENT_CONFLICT, link::id(ctx), address, |event| {
        event.ethertype = ethernet.ethertype;
        event.via = via;
        event.mac = mac.bytes();
        add_owner(event, address);
    });
}
