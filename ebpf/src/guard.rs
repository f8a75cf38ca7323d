//! The verdicts on packets from and to a pod, at the pod's link.

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, programs::TcContext};
use aya_log_ebpf::debug;
use holdfast_abi::{
    Binding, Counter, EVENT_FOREIGN, EVENT_LEASE, EVENT_MAC, EVENT_STALE, FIRST_INSIDE, FLAG_LEASED, Link,
    MODE_OBSERVE, STATE_CURRENT, STATE_STALE, VIA_ARP, VIA_LINK, VIA_ND,
};

use crate::{
    arp::{self, Arp},
    ethernet::{self, Ethernet},
    events::{LOG_MALFORMED, add_owner, count, log_allowed, report_limited},
    ip, link,
    maps::{BINDINGS, LEASE, MACS, POOLS},
    packed::{Ip, MacWord},
    shared_uplink,
    verdict::{AddressUse, DROP, PASS, Policy, check_frame},
};

/// The policy for packets from a pod.
struct FromPod;

impl Policy for FromPod {
    #[inline(always)]
    fn check(_ctx: &TcContext, used: &AddressUse) -> i32 {
        check(used)
    }

    #[inline(always)]
    fn check_outlined(_ctx: &TcContext, used: &AddressUse) -> i32 {
        check_outlined(used)
    }

    #[inline(always)]
    fn malformed(ctx: &TcContext, link: u32) -> i32 {
        malformed(ctx, link)
    }

    #[inline(always)]
    fn malformed_claim(ctx: &TcContext, used: &AddressUse) -> i32 {
        malformed(ctx, used.link)
    }

    #[inline(always)]
    fn no_address(link: u32, ethertype: u16, mac: MacWord) -> i32 {
        let used = AddressUse { address: Ip::UNSPECIFIED, link, ethertype, via: VIA_LINK, mac, claimed_mac: mac };
        check_unmanaged(&used, Counter::PassOther)
    }
}

/// Returns the verdict on a packet from a pod.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> i32 {
    let link = link::id(ctx);
    let Some(ethernet) = Ethernet::parse(ctx) else { return malformed(ctx, link) };
    check_frame::<FromPod>(ctx, &ethernet, link)
}

/// Returns the verdict on a packet to a pod: packets to an address with a newer holder are dropped.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext) -> i32 {
    let Some(ethernet) = Ethernet::parse(ctx) else { return PASS };
    let payload = ethernet.payload;
    let address = match ethernet.ethertype {
        ethernet::IPV4 => ip::v4_destination(ctx, payload),
        ethernet::IPV6 => ip::v6_destination(ctx, payload),
        ethernet::ARP => match Arp::parse(ctx, payload) {
            arp::Parsed::Arp(arp) => Some(arp.target()),
            _ => None,
        },
        _ => None,
    };
    let Some(address) = address else { return PASS };
    let link = link::id(ctx);
    // SAFETY: as in `check`.
    match unsafe { BINDINGS.get(address.binding_key(link)) } {
        Some(binding) if binding.state == STATE_STALE => {
            count(Counter::DropToStale);
            return DROP;
        }
        _ => {}
    }
    // On the host side `guard_from_pod` of the sending pod has already checked the packet.
    if link >= FIRST_INSIDE && shared_uplink::check(ctx, &ethernet) == DROP {
        return DROP;
    }
    count(Counter::PassToPod);
    PASS
}

#[inline(always)]
fn check(used: &AddressUse) -> i32 {
    // SAFETY: the agent may remove the entry meanwhile; its memory then stays that of some binding until the program
    // ends, and the verdict is that of a moment earlier or later.
    let Some(binding) = (unsafe { BINDINGS.get(used.address.binding_key(used.link)) }) else {
        return check_unbound(used);
    };
    let mac = MacWord::of(binding.mac);
    let mac_fits = (used.mac == mac && used.claimed_mac == mac) || mac.is_zero();
    if binding.state == STATE_CURRENT && mac_fits && lease_holds(binding) {
        count(Counter::PassCurrent);
        return PASS;
    }
    check_mismatch(used, binding, mac_fits)
}

#[inline(never)]
fn check_outlined(used: &AddressUse) -> i32 {
    check(used)
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

/// Returns the verdict on an address that is bound to the link, but in another state or with another MAC.
#[inline(never)]
fn check_mismatch(used: &AddressUse, binding: &Binding, mac_fits: bool) -> i32 {
    let (kind, counter) = if binding.state != STATE_CURRENT {
        (EVENT_STALE, Counter::DropStale)
    } else if mac_fits {
        (EVENT_LEASE, Counter::DropLease)
    } else {
        (EVENT_MAC, Counter::DropMac)
    };
    // Observe mode applies to suspected spoofing only: that an address has a newer holder is certain.
    let observed = kind == EVENT_MAC && link::observes(used.link);
    let Binding { generation, container_tag, .. } = *binding;
    // The MAC that differs from the binding's.
    let mac = if used.mac == MacWord::of(binding.mac) { used.claimed_mac } else { used.mac };
    enforce(used, &Violation { kind, counter, observed, mac, pool: 0, generation, container_tag })
}

/// Returns the verdict on an address that is not bound to the link.
#[inline(never)]
fn check_unbound(used: &AddressUse) -> i32 {
    let Some(pool) = POOLS.get(used.address.prefix_key()) else {
        return check_unmanaged(used, Counter::PassOutside);
    };
    let (observed, generation, container_tag) = match link::get(used.link) {
        Some(link) => (link.mode == MODE_OBSERVE, link.generation, link.container_tag),
        None => (false, 0, 0),
    };
    let (kind, counter, mac, pool) = (EVENT_FOREIGN, Counter::DropForeign, used.mac, pool.pool);
    enforce(used, &Violation { kind, counter, observed, mac, pool, generation, container_tag })
}

/// Returns the verdict on a frame without an address of a managed pool. It passes, unless its source MAC is that of
/// another pod of this node: such a frame would redirect that pod's traffic to this link.
#[inline(never)]
fn check_unmanaged(used: &AddressUse, counter: Counter) -> i32 {
    if let Some(link) = link::get(used.link)
        && !MacWord::of(link.mac).is_zero()
        && MacWord::of(link.mac) != used.mac
    {
        // SAFETY: as in `check`.
        let owner = unsafe { MACS.get(used.mac.key()) };
        if owner.is_some_and(|owner| *owner != used.link) {
            let Link { generation, container_tag, mode, .. } = *link;
            let (kind, counter, observed) = (EVENT_MAC, Counter::DropMac, mode == MODE_OBSERVE);
            let mac = used.mac;
            return enforce(used, &Violation { kind, counter, observed, mac, pool: 0, generation, container_tag });
        }
    }
    count(counter);
    PASS
}

/// A use of an address that the link's bindings do not allow.
struct Violation {
    /// `EVENT_*`.
    kind: u32,
    counter: Counter,
    /// True in observe mode: the packet passes.
    observed: bool,
    /// The MAC for the event.
    mac: MacWord,
    pool: u32,
    generation: u64,
    container_tag: u64,
}

/// Counts and reports a violation, and returns the verdict.
#[inline(never)]
fn enforce(used: &AddressUse, violation: &Violation) -> i32 {
    let Violation { kind, counter, observed, mac, pool, generation, container_tag } = *violation;
    if observed {
        count(Counter::PassObserved);
    } else {
        count(counter);
        match used.via {
            VIA_ARP => count(Counter::DropArp),
            VIA_ND => count(Counter::DropNd),
            _ => {}
        }
    }
    report_limited(kind, used.link, used.address, |event| {
        event.ethertype = used.ethertype;
        event.dropped = u8::from(!observed);
        event.via = used.via;
        event.generation = generation;
        event.container_tag = container_tag;
        event.mac = mac.bytes();
        event.pool = pool;
        add_owner(event, used.address);
    });
    if observed { PASS } else { DROP }
}

/// Drops a frame that ends inside a header to be checked. No network stack sends one and it identifies no address, so
/// it is no event; the debug log has a line.
#[inline(never)]
fn malformed(ctx: &TcContext, link: u32) -> i32 {
    count(Counter::DropMalformed);
    if log_allowed(LOG_MALFORMED, link) {
        debug!(ctx, "link {}: dropped a frame of {} bytes that is cut short", link, ctx.len());
    }
    DROP
}
