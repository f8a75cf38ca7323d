//! The programs without an interface, by `BPF_PROG_TEST_RUN`.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{SchedClassifier, TestRun as _},
};
use holdfast_abi::{Binding, BindingKey, Counter, Pool, STATE_CURRENT, STATE_STALE, v4_mapped};

use crate::netns::need_root;

/// The MAC that bound addresses are used with.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A bound address.
pub const V4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
/// A bound address.
pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
/// An address that is bound to a newer holder elsewhere.
pub const STALE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 254);
/// The index of `lo`, on which packets of a test run come in.
const LO: u32 = 1;

/// The programs, loaded for themselves; `V4` and `V6` are bound.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// `TC_ACT_UNSPEC`.
    pub const PASS: i32 = -1;
    /// `TC_ACT_SHOT`.
    pub const DROP: i32 = 2;

    /// Returns the programs, loaded unchanged.
    pub fn new() -> Result<Self> {
        Self::load(&mut EbpfLoader::new())
    }

    /// Returns the programs with a ring of one page.
    pub fn with_small_ring() -> Result<Self> {
        Self::load(EbpfLoader::new().map_max_entries("EVENTS", 4_096))
    }

    fn load(loader: &mut EbpfLoader<'_>) -> Result<Self> {
        need_root()?;
        let object = std::env::var("HOLDFAST_BPF_OBJECT")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/objects/holdfast.bpf.o").to_owned());
        let mut ebpf = loader.load(&std::fs::read(object)?)?;
        let mut pools: LpmTrie<&mut MapData, [u8; 16], Pool> = ebpf.map_mut("POOLS").context("POOLS")?.try_into()?;
        pools.insert(&Key::new(112, v4_mapped([10, 7, 0, 0])), Pool { pool: 4, flags: 0 }, 0)?;
        pools.insert(
            &Key::new(64, Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 0).octets()),
            Pool { pool: 6, flags: 0 },
            0,
        )?;
        let mut bindings: HashMap<&mut MapData, BindingKey, Binding> =
            ebpf.map_mut("BINDINGS").context("BINDINGS")?.try_into()?;
        let binding =
            Binding { generation: 1, container_tag: 1, state: STATE_CURRENT, flags: 0, mac: MAC, lease_slot: 0 };
        for address in [v4_mapped(V4.octets()), V6.octets()] {
            bindings.insert(BindingKey::new(LO, address), binding, 0)?;
        }
        bindings.insert(
            BindingKey::new(LO, v4_mapped(STALE.octets())),
            Binding { state: STATE_STALE, ..binding },
            0,
        )?;
        for name in ["guard_from_pod", "guard_to_pod", "watch_uplink", "guard_uplink_out"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        Ok(Self { ebpf })
    }

    /// Returns the verdict of one of the programs after `repeat` runs in one go.
    pub fn test_run(&self, name: &str, frame: &[u8], repeat: u32) -> Result<i32> {
        let program: &SchedClassifier = self.ebpf.program(name).context("a program")?.try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        Ok(program.test_run(options)?.return_value.cast_signed())
    }

    /// Returns the verdict on a packet from a pod.
    pub fn run(&self, frame: &[u8]) -> Result<i32> {
        self.test_run("guard_from_pod", frame, 1)
    }

    /// Returns the verdict after `times` runs.
    pub fn repeat(&self, frame: &[u8], times: u32) -> Result<i32> {
        self.test_run("guard_from_pod", frame, times)
    }

    /// Returns the time that one run takes, on average.
    pub fn cost(&self, name: &str, frame: &[u8], times: u32) -> Result<Duration> {
        let program: &SchedClassifier = self.ebpf.program(name).context("a program")?.try_into()?;
        cost(program, frame, times)
    }

    /// Returns one counter.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let counters: PerCpuArray<&MapData, u64> = self.ebpf.map("COUNTERS").context("COUNTERS")?.try_into()?;
        Ok(counters.get(&(counter as u32), 0)?.iter().sum())
    }
}

/// Returns the time that one test run of a program takes, on average.
pub fn cost(program: &SchedClassifier, frame: &[u8], times: u32) -> Result<Duration> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = times;
    Ok(program.test_run(options)?.duration)
}
