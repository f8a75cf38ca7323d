//! Workloads that come, change and go at random, in a pool too small for all: `HOLDFAST_CHURN_SECONDS` for how long,
//! `HOLDFAST_CHURN_SEED` to do the same again.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::progress::Poll;

use crate::invariants::Invariants;
use crate::manifest;
use crate::namespace::{LIMIT, TestNamespace, is_ready, text};

const POOL: u16 = 18;
const SECONDS: u64 = 120;
/// From one act to the next: long enough for pods to start, too short for all of them.
const PACE: Duration = Duration::from_secs(2);
const MOST_REPLICAS: u64 = 6;
const WORKLOADS: [(&str, &str); 6] = [
    ("statefulsets", "one"),
    ("statefulsets", "two"),
    ("statefulsets", "three"),
    ("deployments", "four"),
    ("deployments", "five"),
    ("deployments", "six"),
];

/// Random numbers that a seed decides (xorshift64*).
struct Dice(u64);

impl Dice {
    /// Less than `bound`.
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        if from.is_empty() { None } else { from.get(usize::try_from(self.roll(from.len() as u64)).ok()?) }
    }
}

fn setting(name: &str) -> Result<Option<u64>> {
    let text = std::env::var(name).ok();
    text.map(|text| text.parse().with_context(|| format!("{name} is no number: {text:?}"))).transpose()
}

fn seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    Ok(setting("HOLDFAST_CHURN_SEED")?.unwrap_or(now).max(1))
}

/// Does one thing to one workload.
fn act(namespace: &TestNamespace, dice: &mut Dice) -> Result<()> {
    let (kind, name) = WORKLOADS[usize::try_from(dice.roll(WORKLOADS.len() as u64))?];
    let workload = format!("{kind}/{name}");
    let path = format!("/apis/apps/v1/namespaces/{}/{kind}", namespace.name);
    let Some(there) = namespace.world.api.get(&path, name)? else {
        let replicas = u32::try_from(1 + dice.roll(MOST_REPLICAS))?;
        let new = if kind == "deployments" { manifest::deployment } else { manifest::stateful_set };
        return namespace.apply(new(name, replicas));
    };
    if !there["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let pods: Vec<Value> = namespace.pods(name)?;
    let force: &[&str] = if dice.roll(2) == 0 { &["--force", "--grace-period=0"] } else { &[] };
    match dice.roll(10) {
        0..5 => namespace.scale(&workload, u32::try_from(dice.roll(MOST_REPLICAS + 1))?),
        5 => namespace.kubectl(&["rollout", "restart", &workload]).map(drop),
        6..9 => {
            let Some(pod) = dice.pick(&pods) else { return Ok(()) };
            let delete = ["delete", "pod", text(pod, "/metadata/name")?, "--ignore-not-found", "--wait=false"];
            namespace.kubectl(&[&delete, force].concat()).map(drop)
        }
        _ => {
            let cascade = ["--cascade=background", "--cascade=foreground"][usize::try_from(dice.roll(2))?];
            namespace.kubectl(&["delete", &workload, cascade, "--wait=false"]).map(drop)
        }
    }
}

/// Waits until nothing is left of what was.
fn nothing_is_left(namespace: &TestNamespace) -> Result<()> {
    namespace.kubectl(&["delete", "statefulsets,deployments", "--all", "--wait=false"])?;
    namespace.wait("everything to be gone", LIMIT + 30, || {
        let (pods, endpoints, claims) =
            (namespace.all_pods()?.len(), namespace.endpoints()?.len(), namespace.claims()?.len());
        let left = format!("{pods} pods, {endpoints} endpoints and {claims} claims are there");
        Ok(if pods + endpoints + claims == 0 { Poll::Ready(()) } else { Poll::Pending(left) })
    })?;
    namespace.in_use(0)
}

#[test]
fn after_any_churn_the_pool_is_empty() -> Result<()> {
    let (seed, seconds) = (seed()?, setting("HOLDFAST_CHURN_SECONDS")?.unwrap_or(SECONDS));
    eprintln!("churning for {seconds} s with HOLDFAST_CHURN_SEED={seed}");
    let namespace = TestNamespace::shared("churn", POOL)?;
    let (mut dice, mut invariants) = (Dice(seed), Invariants::new(&namespace));
    let (begun, mut acts, mut most_ready) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let acted = Instant::now();
        act(&namespace, &mut dice)?;
        acts += 1;
        namespace.wait("the next act", LIMIT, || {
            if let Some(pods) = invariants.check()? {
                most_ready = most_ready.max(pods.iter().filter(|pod| is_ready(pod)).count());
            }
            Ok(if acted.elapsed() < PACE { Poll::Pending("it is not time".into()) } else { Poll::Ready(()) })
        })?;
    }
    ensure!(most_ready > 0, "no pod was ever Ready in {acts} acts");
    nothing_is_left(&namespace).with_context(|| format!("after {acts} acts, up to {most_ready} pods, seed {seed}"))?;
    eprintln!("{acts} acts, up to {most_ready} pods Ready at once, nothing left");
    namespace.finish()
}
