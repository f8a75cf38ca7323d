//! The maps. All of them are pinned, so that traffic and fencing go on while the agent is away.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use holdfast_abi::{Address, Binding, BindingKey, Counter, Lease, Link, MacKey, Owner, Pool, Rate, RateKey, Sandbox};

// Without preallocation a map costs what is in it. From a tracepoint only preallocated maps are safe before 6.1.

/// Which link may use which address: the hot path's only lookup.
#[map]
pub(crate) static BINDINGS: HashMap<BindingKey, Binding> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Who holds an address on this node.
#[map]
pub(crate) static OWNERS: HashMap<Address, Owner> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// The links the programs sit on.
#[map]
pub(crate) static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// The pods' MACs.
#[map]
pub(crate) static MACS: HashMap<MacKey, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// The managed pools.
#[map]
pub(crate) static POOLS: LpmTrie<Address, Pool> = LpmTrie::with_max_entries(65_536, 0);

/// Processes whose end is a sandbox's death.
#[map]
pub(crate) static SANDBOXES: HashMap<u32, Sandbox> = HashMap::with_max_entries(4_096, 0);

/// Deadlines of leased bindings. Slot 0 is the node's.
#[map]
pub(crate) static LEASE: Array<Lease> = Array::with_max_entries(8, 0);

/// The state of the rate limit. What falls out of it may be reported once more, no harm done.
#[map]
pub(crate) static RATE: LruHashMap<RateKey, Rate> = LruHashMap::with_max_entries(8_192, 0);

/// Counts by [`Counter`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::SLOTS, 0);

/// What the agent is told.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// The layout of all these, for an agent that finds them pinned. No program reads it.
#[map]
pub(crate) static META: Array<u64> = Array::with_max_entries(4, 0);
