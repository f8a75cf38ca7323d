//! Counters and events.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use holdfast_abi::{Counter, Event, LAYOUT_VERSION, RATE_KEY_BURST, RATE_LINK_BURST, RATE_WINDOW_NS, Rate, RateKey};

use crate::{
    maps::{COUNTERS, EVENTS, RATE},
    words::Ip,
};

/// An event in words: cleared like this, it takes a store for each and no loop.
const EVENT_WORDS: usize = size_of::<Event>() / 8;

/// Counts one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own value, and a program is not interrupted by another one that counts here often enough
        // for a lost increment to matter.
        unsafe { *value += 1 }
    }
}

/// Whether an event of this kind may be sent. The address is asked first and without a trace, so that a flood over
/// many addresses stops at the link's limit before it can fill the table.
#[inline(always)]
fn allowed(kind: u32, link: u32, address: Ip, now: u64) -> bool {
    let has_address = !address.is_unspecified();
    let of_address = address.rate_key(link, kind);
    if has_address && spent(&of_address, RATE_KEY_BURST, now) {
        return false;
    }
    let of_link = Ip::UNSPECIFIED.rate_key(link, kind);
    spend(&of_link, RATE_LINK_BURST, now) && (!has_address || spend(&of_address, RATE_KEY_BURST, now))
}

/// Stands in the place of an event's kind in the limit on log lines about malformed frames.
pub(crate) const LOG_MALFORMED: u32 = 1 << 16;

/// Whether a line may be logged.
#[inline(always)]
pub(crate) fn log_allowed(kind: u32, link: u32) -> bool {
    // SAFETY: the helper takes nothing and returns a number.
    allowed(kind, link, Ip::UNSPECIFIED, unsafe { bpf_ktime_get_ns() })
}

/// Whether the limit of `key` is used up.
#[inline(always)]
fn spent(key: &RateKey, burst: u32, now: u64) -> bool {
    // SAFETY: an entry that is replaced meanwhile makes the answer wrong by one event.
    unsafe { RATE.get(key) }.is_some_and(|rate| now.wrapping_sub(rate.since_ns) < RATE_WINDOW_NS && rate.count >= burst)
}

/// Takes one from the limit of `key`. CPUs that do this at once may together take a few too many.
#[inline(always)]
fn spend(key: &RateKey, burst: u32, now: u64) -> bool {
    if let Some(rate) = RATE.get_ptr_mut(key) {
        // SAFETY: the pointer stays readable and writable while the program runs; see above for the race.
        unsafe {
            if now.wrapping_sub((*rate).since_ns) < RATE_WINDOW_NS {
                if (*rate).count >= burst {
                    return false;
                }
                (*rate).count += 1;
                return true;
            }
        }
    }
    // A full table is no reason to stay silent.
    let _ = RATE.insert(key, Rate { since_ns: now, count: 1, pad: 0 }, 0);
    true
}

/// Sends an event unless the limit on its kind is used up. `fill` adds what is not given here.
#[inline(always)]
pub(crate) fn report_limited(kind: u32, link: u32, address: Ip, fill: impl FnOnce(&mut Event)) {
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    if !allowed(kind, link, address, now) {
        count(Counter::EventsLimited);
        return;
    }
    report(kind, now, |event| {
        event.link = link;
        event.address = *address.bytes();
        fill(event);
    });
}

/// Sends an event, or counts it as lost if the ring is full. It is made in the ring itself: the stack of a program is short.
#[inline(always)]
pub(crate) fn report(kind: u32, now: u64, fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = EVENTS.reserve::<[u64; EVENT_WORDS]>(0) else {
        count(Counter::EventsLost);
        return;
    };
    entry.write([0; EVENT_WORDS]);
    // SAFETY: the entry has the size of an event and is aligned to eight bytes; every bit pattern is an event.
    let event = unsafe { &mut *entry.as_mut_ptr().cast::<Event>() };
    event.version = LAYOUT_VERSION;
    event.size = size_of::<Event>() as u16;
    event.kind = kind;
    event.timestamp_ns = now;
    fill(event);
    entry.submit(0);
    count(Counter::Events);
}
