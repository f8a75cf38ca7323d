//! Counters, and the events for the agent with their rate limit.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use holdfast_abi::{Counter, Event, LAYOUT_VERSION, RATE_KEY_BURST, RATE_LINK_BURST, RATE_WINDOW_NS, Rate, RateKey};

use crate::{
    maps::{COUNTERS, EVENTS, OWNERS, RATE},
    packed::Ip,
};

/// The size of an event in words. Clearing it word by word takes one store each and no loop.
const EVENT_WORDS: usize = size_of::<Event>() / 8;

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the value belongs to this CPU. A program that interrupts this one may cost an increment, which is
        // rare enough not to matter.
        unsafe { *value += 1 }
    }
}

/// Returns true if the limit allows an event of this kind, and consumes it. The address's limit is first read only, so
/// that a flood over many addresses ends at the link's limit before it fills the table.
#[inline(always)]
fn allowed(kind: u32, link: u32, address: Ip, now: u64) -> bool {
    let has_address = !address.is_unspecified();
    let of_address = address.rate_key(link, kind);
    if has_address && is_exhausted(&of_address, RATE_KEY_BURST, now) {
        return false;
    }
    let of_link = Ip::UNSPECIFIED.rate_key(link, kind);
    consume(&of_link, RATE_LINK_BURST, now) && (!has_address || consume(&of_address, RATE_KEY_BURST, now))
}

/// The kind of log lines about malformed frames in the rate limit, beside the kinds of events.
pub(crate) const LOG_MALFORMED: u32 = 1 << 16;

/// Returns true if the limit allows a log line of this kind, and consumes it.
#[inline(always)]
pub(crate) fn log_allowed(kind: u32, link: u32) -> bool {
    // SAFETY: the helper takes nothing and returns a number.
    allowed(kind, link, Ip::UNSPECIFIED, unsafe { bpf_ktime_get_ns() })
}

/// Returns true if the limit of `key` is exhausted.
#[inline(always)]
fn is_exhausted(key: &RateKey, burst: u32, now: u64) -> bool {
    // SAFETY: an entry that is replaced meanwhile makes the result wrong by one event.
    unsafe { RATE.get(key) }.is_some_and(|rate| now.wrapping_sub(rate.since_ns) < RATE_WINDOW_NS && rate.count >= burst)
}

/// Consumes one event of the limit of `key`, and returns true if it was not exhausted. CPUs that do this concurrently
/// may exceed the limit by a few events.
#[inline(always)]
fn consume(key: &RateKey, burst: u32, now: u64) -> bool {
    if let Some(rate) = RATE.get_ptr_mut(key) {
        // SAFETY: the pointer stays valid while the program runs; the race is the one described above.
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
    // An event is more important than the limit: a full table does not suppress it.
    let _ = RATE.insert(key, Rate { since_ns: now, count: 1, pad: 0 }, 0);
    true
}

/// Sends an event unless the rate limit is exhausted. `fill` sets the remaining fields.
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

/// Sends an event, or counts it as lost if the ring is full. It is built in the ring's memory: it would take a fifth of
/// the stack.
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

/// Adds the address's holder on this node.
#[inline(always)]
pub(crate) fn add_owner(event: &mut Event, address: Ip) {
    // SAFETY: the agent may remove the entry meanwhile; the event then has the holder of a moment earlier.
    if let Some(owner) = unsafe { OWNERS.get(address.bytes()) } {
        event.owner_mac = owner.mac;
        event.owner_link = owner.link;
        event.owner_generation = owner.generation;
        event.owner_tag = owner.container_tag;
    }
}
