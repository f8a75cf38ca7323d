//! The verdict on what a pod sends and gets.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_ktime_get_boot_ns,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use holdfast_abi::{
    Binding, Counter, EVENT_FOREIGN, EVENT_LEASE, EVENT_MAC, EVENT_STALE, Event, FIRST_INSIDE, FLAG_LEASED, Link,
    MODE_OBSERVE, STATE_CURRENT, STATE_STALE, VIA_ARP, VIA_IP, VIA_LINK, VIA_ND,
};

use crate::{
    arp::{self, Arp},
    frame::{self, Ethernet},
    ip::{self, Ipv6},
    maps::{BINDINGS, LEASE, LINKS, MACS, OWNERS, POOLS},
    neighbour::{self, Claim},
    report::{LOG_MALFORMED, count, log_allowed, report_limited},
    shared,
    words::{Ip, MacWord},
};

/// Identity of the link when the program sits inside a pod's network namespace, where interface indexes repeat from
/// pod to pod. Set by the loader, from `FIRST_INSIDE` on; 0 stands for the interface's own index.
#[unsafe(no_mangle)]
static LINK_ID: u32 = 0;

/// On to the next program, which on the tcx hook is `TCX_NEXT` and on clsact `TC_ACT_UNSPEC`.
pub(crate) const PASS: i32 = TC_ACT_UNSPEC;
pub(crate) const DROP: i32 = TC_ACT_SHOT;

/// One use of an address.
struct Use {
    address: Ip,
    link: u32,
    ethertype: u16,
    via: u8,
    /// The frame's source.
    mac: MacWord,
    /// The MAC that the payload says the address has.
    claimed_mac: MacWord,
}

/// The identity of the link the packet is on.
#[inline(always)]
pub(crate) fn link(ctx: &TcContext) -> u32 {
    // SAFETY: reads the program's own constant; volatile because the loader has changed it since it was compiled.
    let id = unsafe { core::ptr::read_volatile(&raw const LINK_ID) };
    // SAFETY: the context is valid while the program runs.
    if id == 0 { unsafe { (*ctx.skb.skb).ifindex } } else { id }
}

/// Judges a packet that a pod sends.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> i32 {
    let link = link(ctx);
    let Some(ethernet) = Ethernet::parse(ctx) else { return malformed(ctx, link) };
    let Ethernet { source: mac, ethertype, payload } = ethernet;
    // Made where its address is known: one to be filled in later would be cleared first, in a loop over its bytes.
    let seen = |address, via, claimed_mac| Use { address, link, ethertype, via, mac, claimed_mac };
    // One place for all of them: the stack is short.
    let mut used;
    match ethertype {
        frame::IPV4 => {
            let Some(source) = ip::v4_source(ctx, payload) else { return malformed(ctx, link) };
            used = seen(source, VIA_IP, mac);
        }
        frame::IPV6 => {
            let Some(header) = Ipv6::parse(ctx, payload) else { return malformed(ctx, link) };
            used = seen(header.source, VIA_IP, mac);
            if header.hop_limit == neighbour::HOP_LIMIT {
                let claim = neighbour::claim(ctx, header.source, header.next, payload + Ipv6::LENGTH);
                let verdict = judge_claim(ctx, &mut used, claim);
                if verdict != PASS {
                    return verdict;
                }
            }
        }
        frame::ARP => match Arp::parse(ctx, payload) {
            arp::Parsed::Arp(arp) => used = seen(arp.claims(), VIA_ARP, arp.sender_mac),
            arp::Parsed::Other => return other(link, ethertype, mac),
            arp::Parsed::Malformed => return malformed(ctx, link),
        },
        _ => return other(link, ethertype, mac),
    }
    judge(&used)
}

/// Judges all that neighbour discovery uses but the last, which is left to be judged in `used`. Whom it comes from counts
/// as well as whom it speaks of.
#[inline(always)]
fn judge_claim(ctx: &TcContext, used: &mut Use, claim: Claim) -> i32 {
    let mac = used.mac;
    let (target, claimed) = match claim {
        Claim::None => return PASS,
        Claim::Malformed => return malformed(ctx, used.link),
        Claim::Source(claimed) => (used.address, claimed),
        Claim::Target(target, claimed) => {
            let claimed = claimed.unwrap_or(mac);
            let verdict = judge_apart(used);
            if verdict != PASS {
                return verdict;
            }
            (target, claimed)
        }
        Claim::Redirect { target, destination, mac: claimed } => {
            let claimed = claimed.unwrap_or(mac);
            let verdict = judge_apart(used);
            if verdict != PASS {
                return verdict;
            }
            let Some(destination) = neighbour::address(ctx, destination) else { return malformed(ctx, used.link) };
            (used.address, used.via) = (destination, VIA_ND);
            let verdict = judge_apart(used);
            if verdict != PASS {
                return verdict;
            }
            (target, claimed)
        }
    };
    (used.address, used.via, used.claimed_mac) = (target, VIA_ND, claimed);
    PASS
}

/// Judges a frame that uses no address.
#[inline(always)]
fn other(link: u32, ethertype: u16, mac: MacWord) -> i32 {
    let seen = Use { address: Ip::UNSPECIFIED, link, ethertype, via: VIA_LINK, mac, claimed_mac: mac };
    unmanaged(&seen, Counter::PassOther)
}

/// Judges a packet towards a pod: what is for an address with a newer holder is not for this pod.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext) -> i32 {
    let Some(ethernet) = Ethernet::parse(ctx) else { return PASS };
    let payload = ethernet.payload;
    let address = match ethernet.ethertype {
        frame::IPV4 => ip::v4_destination(ctx, payload),
        frame::IPV6 => ip::v6_destination(ctx, payload),
        frame::ARP => match Arp::parse(ctx, payload) {
            arp::Parsed::Arp(arp) => Some(arp.target()),
            _ => None,
        },
        _ => None,
    };
    let Some(address) = address else { return PASS };
    let link = link(ctx);
    // SAFETY: as in `judge`.
    match unsafe { BINDINGS.get(address.binding_key(link)) } {
        Some(binding) if binding.state == STATE_STALE => {
            count(Counter::DropToStale);
            return DROP;
        }
        _ => {}
    }
    // On the host side, another program has seen whatever comes from a pod.
    if link >= FIRST_INSIDE && shared::judge(ctx, &ethernet) == DROP {
        return DROP;
    }
    count(Counter::PassToPod);
    PASS
}

#[inline(always)]
fn judge(seen: &Use) -> i32 {
    // SAFETY: the agent may remove the entry meanwhile; its memory then stays that of some binding until the program has
    // ended, and the packet is judged as if it had come a moment earlier or later.
    let Some(binding) = (unsafe { BINDINGS.get(seen.address.binding_key(seen.link)) }) else {
        return judge_unbound(seen);
    };
    let mac = MacWord::of(binding.mac);
    let mac_fits = (seen.mac == mac && seen.claimed_mac == mac) || mac.is_zero();
    if binding.state == STATE_CURRENT && mac_fits && lease_holds(binding) {
        count(Counter::PassCurrent);
        return PASS;
    }
    judge_violation(seen, binding, mac_fits)
}

/// [`judge`] for one of several addresses of a packet, which is not the hot path and need not be there again and again.
#[inline(never)]
fn judge_apart(seen: &Use) -> i32 {
    judge(seen)
}

#[inline(always)]
fn lease_holds(binding: &Binding) -> bool {
    if binding.flags & FLAG_LEASED == 0 {
        return true;
    }
    match LEASE.get(u32::from(binding.lease_slot)) {
        // SAFETY: the helper takes nothing and returns a number.
        Some(lease) => (unsafe { bpf_ktime_get_boot_ns() }) < lease.deadline_ns,
        None => false,
    }
}

/// The link has a binding for the address, but the packet does not fit it.
#[inline(never)]
fn judge_violation(seen: &Use, binding: &Binding, mac_fits: bool) -> i32 {
    let (kind, counter) = if binding.state != STATE_CURRENT {
        (EVENT_STALE, Counter::DropStale)
    } else if mac_fits {
        (EVENT_LEASE, Counter::DropLease)
    } else {
        (EVENT_MAC, Counter::DropMac)
    };
    // That the address has moved on is the agent's word, not a suspicion: observe mode is about suspicions.
    let observed = kind == EVENT_MAC && observes(seen.link);
    let Binding { generation, container_tag, .. } = *binding;
    // Of the two MACs, the one that is wrong.
    let mac = if seen.mac == MacWord::of(binding.mac) { seen.claimed_mac } else { seen.mac };
    violation(seen, &Finding { kind, counter, observed, mac, pool: 0, generation, container_tag })
}

/// The link has no binding for the address.
#[inline(never)]
fn judge_unbound(seen: &Use) -> i32 {
    let Some(pool) = POOLS.get(seen.address.prefix_key()) else {
        return unmanaged(seen, Counter::PassOutside);
    };
    let (observed, generation, container_tag) = match link_value(seen.link) {
        Some(link) => (link.mode == MODE_OBSERVE, link.generation, link.container_tag),
        None => (false, 0, 0),
    };
    let (kind, counter, mac, pool) = (EVENT_FOREIGN, Counter::DropForeign, seen.mac, pool.pool);
    violation(seen, &Finding { kind, counter, observed, mac, pool, generation, container_tag })
}

/// What is in no managed pool is not for the guard to judge, with one exception: a frame that carries the MAC of
/// another pod of this node would lead that pod's traffic here.
#[inline(never)]
fn unmanaged(seen: &Use, counter: Counter) -> i32 {
    if let Some(link) = link_value(seen.link)
        && !MacWord::of(link.mac).is_zero()
        && MacWord::of(link.mac) != seen.mac
    {
        // SAFETY: as in `judge`.
        let owner = unsafe { MACS.get(seen.mac.key()) };
        if owner.is_some_and(|owner| *owner != seen.link) {
            let Link { generation, container_tag, mode, .. } = *link;
            let (kind, counter, observed) = (EVENT_MAC, Counter::DropMac, mode == MODE_OBSERVE);
            let mac = seen.mac;
            return violation(seen, &Finding { kind, counter, observed, mac, pool: 0, generation, container_tag });
        }
    }
    count(counter);
    PASS
}

/// What was found wrong with a packet.
struct Finding {
    kind: u32,
    counter: Counter,
    observed: bool,
    mac: MacWord,
    pool: u32,
    generation: u64,
    container_tag: u64,
}

/// Counts, reports and answers with the verdict.
#[inline(never)]
fn violation(seen: &Use, finding: &Finding) -> i32 {
    let Finding { kind, counter, observed, mac, pool, generation, container_tag } = *finding;
    if observed {
        count(Counter::PassObserved);
    } else {
        count(counter);
        match seen.via {
            VIA_ARP => count(Counter::DropArp),
            VIA_ND => count(Counter::DropNd),
            _ => {}
        }
    }
    report_limited(kind, seen.link, seen.address, |event| {
        event.ethertype = seen.ethertype;
        event.dropped = u8::from(!observed);
        event.via = seen.via;
        event.generation = generation;
        event.container_tag = container_tag;
        event.mac = mac.bytes();
        event.pool = pool;
        add_owner(event, seen.address);
    });
    if observed { PASS } else { DROP }
}

/// Adds who holds the address on this node.
#[inline(always)]
pub(crate) fn add_owner(event: &mut Event, address: Ip) {
    // SAFETY: as in `judge`.
    if let Some(owner) = unsafe { OWNERS.get(address.bytes()) } {
        event.owner_mac = owner.mac;
        event.owner_link = owner.link;
        event.owner_generation = owner.generation;
        event.owner_tag = owner.container_tag;
    }
}

#[inline(always)]
fn link_value(link: u32) -> Option<&'static Link> {
    // SAFETY: as in `judge`.
    unsafe { LINKS.get(link) }
}

#[inline(always)]
pub(crate) fn observes(link: u32) -> bool {
    link_value(link).is_some_and(|value| value.mode == MODE_OBSERVE)
}

/// A frame cut short in the middle of what has to be looked at. No stack sends such, so it says nothing about an
/// address and is no event; somebody who wonders where frames go finds it in the debug log.
#[inline(never)]
fn malformed(ctx: &TcContext, link: u32) -> i32 {
    count(Counter::DropMalformed);
    if log_allowed(LOG_MALFORMED, link) {
        debug!(ctx, "link {}: dropped a frame of {} bytes that is cut short", link, ctx.len());
    }
    DROP
}
