//! The maps. All are pinned, so that traffic and fencing continue while the agent is down.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use holdfast_abi::{Address, Binding, BindingKey, Counter, Lease, Link, MacKey, Owner, Pool, Rate, RateKey, Sandbox};

// A map without preallocation uses memory for its entries only. Before Linux 6.1 a tracepoint program may use only
// preallocated maps.

/// The addresses bound to each link: the only lookup on the hot path.
#[map]
pub(crate) static BINDINGS: HashMap<BindingKey, Binding> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// The holder of each address on this node.
#[map]
pub(crate) static OWNERS: HashMap<Address, Owner> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// The links that programs are attached to.
#[map]
pub(crate) static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// The links by the MAC of their pod.
#[map]
pub(crate) static MACS: HashMap<MacKey, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// The managed pools.
#[map]
pub(crate) static POOLS: LpmTrie<Address, Pool> = LpmTrie::with_max_entries(65_536, 0);

/// The sandboxes by the process whose exit ends them.
#[map]
pub(crate) static SANDBOXES: HashMap<u32, Sandbox> = HashMap::with_max_entries(4_096, 0);

/// The deadlines of leased bindings. Slot 0 is the node's.
#[map]
pub(crate) static LEASE: Array<Lease> = Array::with_max_entries(8, 0);

/// The state of the rate limit. An evicted entry costs one more event, which is harmless.
#[map]
pub(crate) static RATE: LruHashMap<RateKey, Rate> = LruHashMap::with_max_entries(8_192, 0);

/// The value of each [`Counter`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::SLOTS, 0);

/// The events for the agent.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// The layout version of the pinned maps, for an agent that finds them. No program reads it.
#[map]
pub(crate) static META: Array<u64> = Array::with_max_entries(4, 0);
