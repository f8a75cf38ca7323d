//! The guard's metrics: the kernel's counters, read at each scrape, and the agent's reactions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_abi::Counter as Kernel;
use holdfast_core::latency::buckets;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::{datapath::Datapath, entries::BindingState, error::DatapathError};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The agent's reactions to the guard's events. Clones count together.
#[derive(Debug, Clone)]
pub struct GuardMetrics {
    rebound: Family<ReasonLabel, Counter>,
    fence_seconds: Histogram,
    passed_over: Arc<AtomicU64>,
}

impl Default for GuardMetrics {
    /// Returns metrics that no registry shows.
    fn default() -> Self {
        Self { rebound: Family::default(), fence_seconds: Histogram::new(buckets()), passed_over: Arc::default() }
    }
}

impl GuardMetrics {
    /// Registers the agent's metrics and the counters of `datapath`'s programs.
    pub fn register(registry: &mut Registry, datapath: Datapath) -> Self {
        let new = Self::default();
        registry.register("holdfast_rebind", "Records corrected after what the guard saw", new.rebound.clone());
        registry.register(
            "holdfast_fence_seconds",
            "From a stale packet until everything that came of it was done, from a sandbox's death until it was fenced",
            new.fence_seconds.clone(),
        );
        registry.register_collector(Box::new(KernelCounters { datapath, passed_over: Arc::clone(&new.passed_over) }));
        new
    }

    /// Counts a corrected record.
    pub fn rebound(&self, reason: &'static str) {
        self.rebound.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts an event that was dropped because too many of its link are under way.
    pub fn passed_over(&self) {
        self.passed_over.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a fence, and the time that it took.
    pub fn fenced(&self, after: Duration) {
        self.fence_seconds.observe(after.as_secs_f64());
    }
}

/// The kernel's counters and the bindings.
#[derive(Debug)]
struct KernelCounters {
    datapath: Datapath,
    passed_over: Arc<AtomicU64>,
}

impl KernelCounters {
    fn try_encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<Result<(), std::fmt::Error>, DatapathError> {
        let counters = self.datapath.counters()?;
        let bindings = self.datapath.bindings()?;
        let count = |state| bindings.iter().filter(|binding| binding.state == state).count();
        let states = [("current", count(BindingState::Current)), ("stale", count(BindingState::Stale))];
        let of = |kinds: fn(Kernel) -> bool| {
            let counts = counters.iter().filter(move |(kind, _)| kinds(*kind));
            counts.map(|(kind, count)| (kind.name(), count))
        };
        let passed_over = std::iter::once(("passed_over", self.passed_over.load(Ordering::Relaxed)));
        Ok((|| {
            encode(encoder, "holdfast_guard_packets", "Packets that the guard let pass", of(is_pass))?;
            encode(encoder, "holdfast_guard_drops", "Packets that the guard dropped", of(is_drop))?;
            let events = "What the guard saw; kind `events` is all that was sent to the agent, of whatever other kind";
            encode(encoder, "holdfast_guard_events", events, of(is_event))?;
            let lost = "Events for which the ring had no room, or the agent no time";
            encode(encoder, "holdfast_guard_events_lost", lost, of(is_lost).chain(passed_over))?;
            let mut gauges = encoder.encode_descriptor(
                "holdfast_bindings",
                "Pairs of link and address",
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?;
            for (state, number) in states {
                let gauge = ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
                gauge.encode(gauges.encode_family(&[("state", state)])?)?;
            }
            Ok(())
        })())
    }
}

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.try_encode(&mut encoder).unwrap_or_else(|error| {
            tracing::error!(%error, "the guard's counters could not be read");
            Ok(())
        })
    }
}

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> Result<(), std::fmt::Error> {
    let kind = prometheus_client::metrics::MetricType::Counter;
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (kind, count) in counts {
        ConstCounter::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
    }
    Ok(())
}

fn is_pass(counter: Kernel) -> bool {
    counter.name().starts_with("pass_")
}

/// `drop_arp` and `drop_nd` are shares of the other counters, and would count twice here.
fn is_drop(counter: Kernel) -> bool {
    counter.name().starts_with("drop_") && !matches!(counter, Kernel::DropArp | Kernel::DropNd)
}

fn is_event(counter: Kernel) -> bool {
    matches!(counter, Kernel::Events | Kernel::EventsLimited | Kernel::Conflicts | Kernel::SandboxExits)
}

fn is_lost(counter: Kernel) -> bool {
    matches!(counter, Kernel::EventsLost)
}
