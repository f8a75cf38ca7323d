//! Hosts on the LAN that claim an address which is bound on this node.

use aya_ebpf::programs::TcContext;
use holdfast_abi::{Counter, EVENT_CONFLICT, VIA_ARP, VIA_ND};

use crate::{
    arp::{self, Arp},
    frame::{self, Ethernet},
    guard::{add_owner, link},
    ip::Ipv6,
    maps::OWNERS,
    neighbour::{self, Claim},
    report::{count, report_limited},
    words::{Ip, MacWord},
};

/// Reports a claim by a foreign MAC. It never drops: who is right is for the agent to find out.
#[inline(always)]
pub(crate) fn watch(ctx: &TcContext) -> Option<()> {
    let ethernet = Ethernet::parse(ctx)?;
    match ethernet.ethertype {
        frame::ARP => {
            let arp::Parsed::Arp(arp) = Arp::parse(ctx, ethernet.payload) else { return None };
            // A request for our address, or a probe, is a question and no claim.
            if let Some(sender) = arp.sender() {
                claim(ctx, sender, arp.sender_mac, &ethernet, VIA_ARP);
            }
        }
        frame::IPV6 => {
            let header = Ipv6::parse(ctx, ethernet.payload)?;
            // From the unspecified source it is a question (duplicate address detection), answered by its holder.
            if header.hop_limit != neighbour::HOP_LIMIT || header.source.is_unspecified() {
                return None;
            }
            let claim = neighbour::claim(ctx, header.source, header.next, ethernet.payload + Ipv6::LENGTH);
            let (address, mac) = match claim {
                Claim::Source(mac) => (header.source, mac),
                Claim::Target(target, mac) => (target, mac.unwrap_or(ethernet.source)),
                // Without a MAC it does not say where the target is: its sender is the router.
                Claim::Redirect { target, mac: Some(mac), .. } => (target, mac),
                _ => return None,
            };
            self::claim(ctx, address, mac, &ethernet, VIA_ND);
        }
        _ => {}
    }
    None
}

#[inline(always)]
fn claim(ctx: &TcContext, address: Ip, mac: MacWord, ethernet: &Ethernet, via: u8) {
    // SAFETY: an entry removed meanwhile is judged as if the packet had come a moment earlier.
    let Some(owner) = (unsafe { OWNERS.get(address.bytes()) }) else { return };
    let owner_mac = MacWord::of(owner.mac);
    if owner_mac.is_zero() || owner_mac == mac {
        return;
    }
    count(Counter::Conflicts);
    report_limited(EVENT_CONFLICT, link(ctx), address, |event| {
        event.ethertype = ethernet.ethertype;
        event.via = via;
        event.mac = mac.bytes();
        add_owner(event, address);
    });
}
