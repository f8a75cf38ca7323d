//! Random histories of pods, StatefulSets, nodes, agents and a collector on a simulated API server.
//!
//! Every write is atomic and a compare-and-swap, as on the real one. The time between two writes is arbitrary, and a
//! crash may come at any point of it. The collector's watches show old states, skip some and repeat some. After each step,
//! no address in use is without its claim and endpoint. At quiescence, nothing is leaked.

mod actors;
mod collector;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use collector::Collector;
use world::{Random, World};

/// The number of histories of a run, unless `HOLDFAST_HISTORIES` gives another.
const HISTORIES: u64 = 100_000;
const STEPS: usize = 800;

/// The events that the histories must reach, so that the test covers them.
const REACHED: [&str; 19] = [
    "live",
    "mark reverted",
    "claim recreated",
    "lost",
    "late DEL",
    "unbound",
    "changed since",
    "second verdict differs",
    "PodGone",
    "PodReplaced",
    "PodFinished",
    "TerminatingTimeout",
    "NodeGone",
    "StatefulSetGone",
    "ScaledDown",
    "RetainOver",
    "marked",
    "unmarked",
    "deleted",
];

#[test]
fn a_live_address_is_never_freed_and_nothing_leaks() {
    let histories = std::env::var("HOLDFAST_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let mut reached = BTreeMap::new();
    for seed in 0..histories {
        match history(seed) {
            Ok(events) => events.into_iter().for_each(|event| *reached.entry(event).or_insert(0) += 1),
            Err(why) => panic!("history {seed}: {why}"),
        }
    }
    println!("{histories} histories reached {reached:?}");
    let missed: Vec<_> = REACHED.iter().filter(|event| !reached.contains_key(*event)).collect();
    assert!(missed.is_empty() || histories < HISTORIES, "no history reached {missed:?}: {reached:?}");
}

fn history(seed: u64) -> Result<BTreeSet<&'static str>, String> {
    let mut random = Random::new(seed);
    let (mut world, mut collector) = (World::default(), Collector::default());
    for step in 0..STEPS {
        match random.below(10) {
            0..5 => world.act(&mut random),
            5..7 => world.show(&mut random),
            _ => collector.act(&mut world, &mut random),
        }
        world.check().map_err(|why| format!("after step {step}: {why}\n{world}"))?;
    }
    world.settle();
    for _ in 0..40 {
        collector.settle(&mut world);
        world.check().map_err(|why| format!("while settling: {why}\n{world}"))?;
    }
    world.check_quiescent().map_err(|why| format!("at quiescence: {why}\n{world}"))?;
    Ok(world.events)
}
