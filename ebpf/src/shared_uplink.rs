//! Pods that share the node's link (macvlan), seen from outside.
//!
//! The guard inside such a pod sits where its interface queues frames, and there is a way past that for whoever may open
//! a packet socket (`PACKET_QDISC_BYPASS`, `AF_XDP`). What goes that way is met again: on the uplink's egress on its way
//! to the LAN, and on the ingress of every other pod on the same link, which the LAN's switch never sees.
//!
//! There it is the frame's source that says whose it is. It is judged as on the link that has this MAC, but what a frame
//! says is no evidence against anybody: the link is not accused, and whoever takes another one's MAC is not found out.

use aya_ebpf::programs::TcContext;
use holdfast_abi::{Counter, EVENT_CONFLICT, FIRST_INSIDE, STATE_CURRENT, VIA_ARP, VIA_IP, VIA_ND};

use crate::{
    arp::{self, Arp},
    frame::{self, Ethernet},
    guard::{DROP, PASS, add_owner, link, observes},
    ip::{self, Ipv6},
    maps::{BINDINGS, MACS, OWNERS, POOLS},
    neighbour::{self, Claim},
    report::{count, report_limited},
    words::{Ip, MacWord},
};

/// One use of an address by the MAC of a pod.
struct Use {
    address: Ip,
    /// The link that has the frame's source MAC.
    from: u32,
    /// The link the program sits on.
    link: u32,
    ethertype: u16,
    via: u8,
    mac: MacWord,
    claimed_mac: MacWord,
}

/// Judges a frame on its way out of the node.
#[inline(always)]
pub(crate) fn leaves(ctx: &TcContext) -> i32 {
    match Ethernet::parse(ctx) {
        Some(ethernet) => judge(ctx, &ethernet),
        None => PASS,
    }
}

/// Judges a frame that may be a neighbour's. One of whatever else is on the LAN passes.
#[inline(always)]
pub(crate) fn judge(ctx: &TcContext, ethernet: &Ethernet) -> i32 {
    let Ethernet { source: mac, ethertype, payload } = *ethernet;
    // SAFETY: an entry removed meanwhile is judged as if the frame had come a moment earlier.
    let from = match unsafe { MACS.get(mac.key()) } {
        Some(from) if *from >= FIRST_INSIDE => *from,
        _ => return PASS,
    };
    let seen = |address, via, claimed_mac| Use { address, from, link: link(ctx), ethertype, via, mac, claimed_mac };
    match ethertype {
        frame::IPV4 => match ip::v4_source(ctx, payload) {
            Some(source) => verdict(&seen(source, VIA_IP, mac)),
            None => PASS,
        },
        frame::ARP => match Arp::parse(ctx, payload) {
            arp::Parsed::Arp(arp) => verdict(&seen(arp.claims(), VIA_ARP, arp.sender_mac)),
            _ => PASS,
        },
        frame::IPV6 => {
            let Some(header) = Ipv6::parse(ctx, payload) else { return PASS };
            let mut used = seen(header.source, VIA_IP, mac);
            if header.hop_limit == neighbour::HOP_LIMIT {
                let claim = neighbour::claim(ctx, header.source, header.next, payload + Ipv6::LENGTH);
                let (target, claimed) = match claim {
                    Claim::None | Claim::Malformed => return verdict(&used),
                    Claim::Source(claimed) => (header.source, claimed),
                    Claim::Target(target, claimed) => {
                        let claimed = claimed.unwrap_or(mac);
                        let of_source = verdict(&used);
                        if of_source != PASS {
                            return of_source;
                        }
                        (target, claimed)
                    }
                    Claim::Redirect { target, destination, mac: claimed } => {
                        let claimed = claimed.unwrap_or(mac);
                        let of_source = verdict(&used);
                        if of_source != PASS {
                            return of_source;
                        }
                        let Some(destination) = neighbour::address(ctx, destination) else { return PASS };
                        (used.address, used.via) = (destination, VIA_ND);
                        let of_destination = verdict(&used);
                        if of_destination != PASS {
                            return of_destination;
                        }
                        (target, claimed)
                    }
                };
                (used.address, used.via, used.claimed_mac) = (target, VIA_ND, claimed);
            }
            verdict(&used)
        }
        _ => PASS,
    }
}

#[inline(never)]
fn verdict(seen: &Use) -> i32 {
    // SAFETY: as in `judge`.
    let counter = match unsafe { BINDINGS.get(seen.address.binding_key(seen.from)) } {
        Some(binding) => {
            let mac = MacWord::of(binding.mac);
            let mac_fits = (seen.mac == mac && seen.claimed_mac == mac) || mac.is_zero();
            if binding.state != STATE_CURRENT {
                Counter::DropStale
            } else if mac_fits || observes(seen.from) {
                return PASS;
            } else {
                Counter::DropMac
            }
        }
        None if POOLS.get(seen.address.prefix_key()).is_none() || observes(seen.from) => return PASS,
        None => Counter::DropForeign,
    };
    count(counter);
    match seen.via {
        VIA_ARP => count(Counter::DropArp),
        VIA_ND => count(Counter::DropNd),
        _ => {}
    }
    report(seen);
    DROP
}

/// A MAC that is not the holder's has claimed the address: all that is certain.
#[inline(always)]
fn report(seen: &Use) {
    // SAFETY: as in `judge`.
    if unsafe { OWNERS.get(seen.address.bytes()) }.is_none_or(|owner| owner.link == seen.from) {
        return;
    }
    report_limited(EVENT_CONFLICT, seen.link, seen.address, |event| {
        event.ethertype = seen.ethertype;
        event.via = seen.via;
        event.dropped = 1;
        event.mac = seen.mac.bytes();
        add_owner(event, seen.address);
    });
}
