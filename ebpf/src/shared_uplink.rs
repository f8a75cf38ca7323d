//! The verdict on frames of pods that share the uplink (macvlan), outside the sending pod's network namespace.
//!
//! The guard inside such a pod is at the interface's egress, and a process that may open a packet socket can bypass it
//! (`PACKET_QDISC_BYPASS`, `AF_XDP`). Its frames are checked again on the uplink's egress on their way to the LAN, and
//! on the ingress of every other pod on the same uplink, which the kernel's macvlan bridge delivers to without the LAN.
//!
//! At both points the sending pod is known by the frame's source MAC only, and the bindings of the link with that MAC
//! apply. A MAC can be spoofed, so it is no evidence: no event names that link as a violator, and a pod that spoofs
//! another pod's MAC here is not detected.

use aya_ebpf::programs::TcContext;
use holdfast_abi::{Counter, EVENT_CONFLICT, FIRST_INSIDE, STATE_CURRENT, VIA_ARP, VIA_ND};

use crate::{
    ethernet::Ethernet,
    events::{add_owner, count, report_limited},
    link,
    maps::{BINDINGS, MACS, OWNERS, POOLS},
    packed::MacWord,
    verdict::{AddressUse, DROP, PASS, Policy, check_frame},
};

/// The policy for frames whose source MAC is that of a pod: only a use of an address that the pod does not hold is
/// refused.
struct SharedUplink;

impl Policy for SharedUplink {
    #[inline(always)]
    fn check(ctx: &TcContext, used: &AddressUse) -> i32 {
        check_address(ctx, used)
    }

    #[inline(always)]
    fn check_outlined(ctx: &TcContext, used: &AddressUse) -> i32 {
        check_address(ctx, used)
    }

    #[inline(always)]
    fn malformed(_ctx: &TcContext, _link: u32) -> i32 {
        PASS
    }

    #[inline(always)]
    fn malformed_claim(ctx: &TcContext, used: &AddressUse) -> i32 {
        check_address(ctx, used)
    }

    #[inline(always)]
    fn no_address(_link: u32, _ethertype: u16, _mac: MacWord) -> i32 {
        PASS
    }
}

/// Returns the verdict on a frame on its way out of the node.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    match Ethernet::parse(ctx) {
        Some(ethernet) => check(ctx, &ethernet),
        None => PASS,
    }
}

/// Returns the verdict on a frame from the shared uplink. Frames that are not from a pod on it pass.
#[inline(always)]
pub(crate) fn check(ctx: &TcContext, ethernet: &Ethernet) -> i32 {
    // SAFETY: the agent may remove the entry meanwhile; the verdict is then that of a moment earlier.
    match unsafe { MACS.get(ethernet.source.key()) } {
        Some(link) if *link >= FIRST_INSIDE => check_frame::<SharedUplink>(ctx, ethernet, *link),
        _ => PASS,
    }
}

#[inline(never)]
fn check_address(ctx: &TcContext, used: &AddressUse) -> i32 {
    // SAFETY: as in `check`.
    let counter = match unsafe { BINDINGS.get(used.address.binding_key(used.link)) } {
        Some(binding) => {
            let mac = MacWord::of(binding.mac);
            let mac_fits = (used.mac == mac && used.claimed_mac == mac) || mac.is_zero();
            if binding.state != STATE_CURRENT {
                Counter::DropStale
            } else if mac_fits || link::observes(used.link) {
                return PASS;
            } else {
                Counter::DropMac
            }
        }
        None if POOLS.get(used.address.prefix_key()).is_none() || link::observes(used.link) => return PASS,
        None => Counter::DropForeign,
    };
    count(counter);
    match used.via {
        VIA_ARP => count(Counter::DropArp),
        VIA_ND => count(Counter::DropNd),
        _ => {}
    }
    report_conflict(ctx, used);
    DROP
}

/// Reports a conflict on the link that the program is attached to, if another link holds the address. The violator is
/// unknown: only the claim by a MAC that is not the holder's is certain.
#[inline(always)]
fn report_conflict(ctx: &TcContext, used: &AddressUse) {
    // SAFETY: as in `check`.
    if unsafe { OWNERS.get(used.address.bytes()) }.is_none_or(|owner| owner.link == used.link) {
        return;
    }
    report_limited(EVENT_CONFLICT, link::id(ctx), used.address, |event| {
        event.ethertype = used.ethertype;
        event.via = used.via;
        event.dropped = 1;
        event.mac = used.mac.bytes();
        add_owner(event, used.address);
    });
}
