//! The collector's driver, one step at a time: the first verdict, each read of the second, the write, the release path.

use std::time::Duration;

use holdfast_core::collect::{
    ClaimFacts, ClaimVerdict, Cooldowns, EndpointFacts, FirstSeen, NodeFacts, PodFacts, Policy, Reason, SetFacts,
    SetKey, Termination, Verdict, judge, judge_claim,
};

use crate::world::{
    ADDRESSES, Claim, DELAY, Endpoint, GRACE, NODES, Objects, PODS, Pod, RETAIN, Random, SETS, Set, World, set_of,
};

/// The durations that the first verdict was based on, and the objects that they were measured for.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// The endpoint's version.
    endpoint: u32,
    vacant: Duration,
    pod: Option<u32>,
    terminating: Duration,
    finished: Duration,
    node: Option<usize>,
    node_gone: Duration,
}

impl Times {
    /// Returns the durations that still hold for the objects as they are now; the others are zero.
    fn of(self, endpoint: &Endpoint, pod: Option<Pod>) -> Self {
        let if_same = |same: bool, time: Duration| if same { time } else { Duration::ZERO };
        Self {
            vacant: if_same(endpoint.version == self.endpoint, self.vacant),
            terminating: if_same(pod.map(|pod| pod.uid) == self.pod, self.terminating),
            finished: if_same(pod.map(|pod| pod.uid) == self.pod, self.finished),
            node_gone: if_same(pod.map(|pod| pod.node) == self.node, self.node_gone),
            ..self
        }
    }
}

/// A task under way. `Pod` has read the endpoint, `Set` the pod, too; `Listing` has read the claim.
#[derive(Debug, Clone, Copy)]
enum Task {
    Verify { name: usize, verdict: Verdict, times: Times },
    Pod { name: usize, verdict: Verdict, times: Times, endpoint: Endpoint },
    Set { name: usize, verdict: Verdict, times: Times, endpoint: Endpoint, pod: Option<Pod> },
    Write { name: usize, verdict: Verdict, endpoint: Endpoint },
    Mark { name: usize, address: usize },
    Listing { name: usize, address: usize, claim: u32 },
    Marking { address: usize, claim: u32 },
    Finish { address: usize, claim: Claim },
    Finishing { address: usize, claim: Claim, listed: bool },
}

#[derive(Default)]
pub(crate) struct Collector {
    tasks: Vec<Task>,
    vacant: FirstSeen<usize, u32>,
    terminating: FirstSeen<usize, u32>,
    finished: FirstSeen<usize, u32>,
    lost_nodes: FirstSeen<usize, ()>,
    claims: FirstSeen<usize, (u32, bool, bool)>,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The number of tasks under way at which no new ones start.
const BUSY: usize = 12;

const COOLDOWNS: Cooldowns = Cooldowns {
    unlisted: Duration::from_secs(20),
    orphaned: Duration::from_secs(5),
    released: Duration::from_secs(10),
};

impl Collector {
    /// One random step, or a crash that loses all memory.
    pub(crate) fn act(&mut self, world: &mut World, random: &mut Random) {
        if random.one_in(300) {
            *self = Self::default();
            return;
        }
        match random.below(8) {
            0 if self.tasks.len() < BUSY => (0..PODS.len()).for_each(|name| self.judge_endpoint(world, name)),
            1 if self.tasks.len() < BUSY => (0..ADDRESSES).for_each(|address| self.judge_claim(world, address)),
            _ if self.tasks.is_empty() => {}
            _ => {
                let task = self.tasks.swap_remove(random.below(self.tasks.len()));
                self.advance(world, task);
            }
        }
    }

    /// Judges and collects everything, with watches that are up to date.
    pub(crate) fn settle(&mut self, world: &mut World) {
        world.shown = world.truth;
        world.advance_clock(30);
        (0..PODS.len()).for_each(|name| self.judge_endpoint(world, name));
        (0..ADDRESSES).for_each(|address| self.judge_claim(world, address));
        while let Some(task) = self.tasks.pop() {
            self.advance(world, task);
        }
    }

    fn judge_endpoint(&mut self, world: &World, name: usize) {
        let (now, shown) = (seconds(world.now), &world.shown);
        for node in 0..NODES {
            if shown.nodes[node].is_some() {
                self.lost_nodes.forget(&node);
            }
        }
        let Some(endpoint) = shown.endpoints[name] else { return };
        let pod = shown.pods[name];
        let times = Times {
            endpoint: endpoint.version,
            pod: pod.map(|pod| pod.uid),
            node: pod.map(|pod| pod.node),
            vacant: if endpoint.bound {
                self.vacant.forget(&name);
                Duration::ZERO
            } else {
                self.vacant.seen_for(name, endpoint.version, now)
            },
            terminating: if let Some(pod) = pod.filter(|pod| pod.terminating.is_some()) {
                self.terminating.seen_for(name, pod.uid, now)
            } else {
                self.terminating.forget(&name);
                Duration::ZERO
            },
            finished: if let Some(pod) = pod.filter(|pod| pod.finished.is_some()) {
                self.finished.seen_for(name, pod.uid, now)
            } else {
                self.finished.forget(&name);
                Duration::ZERO
            },
            node_gone: match pod.filter(|pod| shown.nodes[pod.node].is_none()) {
                Some(pod) => self.lost_nodes.seen_for(pod.node, (), now),
                None => Duration::ZERO,
            },
        };
        let set = set_of(name).and_then(|set| shown.sets[set]);
        let verdict = verdict(name, &endpoint, pod, set, shown, times);
        if verdict.acts() {
            self.tasks.push(Task::Verify { name, verdict, times });
        }
    }

    fn judge_claim(&mut self, world: &World, address: usize) {
        let shown = &world.shown;
        let Some(claim) = shown.claims[address] else { return self.claims.forget(&address) };
        let listed = shown.endpoints[claim.owner].is_some_and(|endpoint| endpoint.address == address);
        let pod = shown.pods[claim.owner].is_some();
        let seen_for = self.claims.seen_for(address, (claim.version, listed, pod), seconds(world.now));
        match judge_claim(&ClaimFacts { released: claim.released, listed, pod, seen_for }, &COOLDOWNS) {
            ClaimVerdict::Mark => self.tasks.push(Task::Mark { name: claim.owner, address }),
            ClaimVerdict::Finish => self.tasks.push(Task::Finish { address, claim }),
            ClaimVerdict::Keep | ClaimVerdict::Wait(_) => {}
        }
    }

    fn advance(&mut self, world: &mut World, task: Task) {
        let lists = |world: &World, name: usize, address: usize| {
            world.truth.endpoints[name].is_some_and(|endpoint| endpoint.address == address)
        };
        match task {
            Task::Verify { name, verdict, times } => {
                if let Some(endpoint) = world.truth.endpoints[name] {
                    self.tasks.push(Task::Pod { name, verdict, times, endpoint });
                }
            }
            Task::Pod { name, verdict, times, endpoint } => {
                let pod = world.truth.pods[name];
                self.tasks.push(Task::Set { name, verdict, times, endpoint, pod });
            }
            Task::Set { name, verdict: first, times, endpoint, pod } => {
                let set = set_of(name).and_then(|set| world.truth.sets[set]);
                let second = verdict(name, &endpoint, pod, set, &world.truth, times.of(&endpoint, pod));
                if second == first {
                    self.tasks.push(Task::Write { name, verdict: first, endpoint });
                } else {
                    world.events.insert("second verdict differs");
                }
            }
            Task::Write { name, verdict, endpoint } => self.write(world, name, verdict, &endpoint),
            Task::Mark { name, address } => {
                let claim = world.truth.claims[address].filter(|claim| claim.owner == name && !claim.released);
                if let Some(claim) = claim {
                    self.tasks.push(Task::Listing { name, address, claim: claim.version });
                }
            }
            Task::Listing { name, address, claim } => {
                if !lists(world, name, address) {
                    self.tasks.push(Task::Marking { address, claim });
                }
            }
            Task::Marking { address, claim } => world.mark(address, claim),
            Task::Finish { address, claim } => {
                let listed = lists(world, claim.owner, address);
                self.tasks.push(Task::Finishing { address, claim, listed });
            }
            Task::Finishing { address, claim, listed } => {
                if world.truth.claims[address].is_none_or(|there| there.version != claim.version) {
                    world.events.insert("changed since");
                } else if listed {
                    world.events.insert("unmarked");
                    let version = world.fresh();
                    world.truth.claims[address] = Some(Claim { version, released: false, ..claim });
                } else {
                    world.events.insert("deleted");
                    world.truth.claims[address] = None;
                }
            }
        }
    }

    fn write(&mut self, world: &mut World, name: usize, verdict: Verdict, read: &Endpoint) {
        if world.truth.endpoints[name].is_none_or(|there| there.version != read.version) {
            world.events.insert("changed since");
            return;
        }
        match verdict {
            Verdict::Unbind(reason) => {
                world.events.insert(reason.as_str());
                world.events.insert("unbound");
                let version = world.fresh();
                world.truth.endpoints[name] = Some(Endpoint { version, bound: false, container: 0, ..*read });
            }
            Verdict::Release(reason) => {
                world.events.insert(Reason::as_str(reason));
                world.truth.endpoints[name] = None;
                self.tasks.push(Task::Mark { name, address: read.address });
            }
            Verdict::Keep | Verdict::Wait(_) => unreachable!("only verdicts that act are written"),
        }
    }
}

fn verdict(
    name: usize,
    endpoint: &Endpoint,
    pod: Option<Pod>,
    set: Option<Set>,
    objects: &Objects,
    times: Times,
) -> Verdict {
    let uid = |number: u32| number.to_string();
    let (pod_uid, set_uid) = (uid(endpoint.pod), endpoint.set.map(uid));
    let facts = EndpointFacts {
        name: PODS[name],
        pod_uid: &pod_uid,
        set: set_of(name).zip(set_uid.as_deref()).map(|(set, uid)| SetKey { name: SETS[set], uid: Some(uid) }),
        bound: endpoint.bound,
        retain: endpoint.retained.then_some(seconds(RETAIN)),
        vacant_for: times.vacant,
    };
    let there_uid = pod.map(|pod| uid(pod.uid)).unwrap_or_default();
    let pod = pod.map(|pod| PodFacts {
        uid: &there_uid,
        finished: pod.finished.map(|_| Termination { seen_for: times.finished, grace: seconds(GRACE) }),
        terminating: pod.terminating.map(|_| Termination { seen_for: times.terminating, grace: seconds(GRACE) }),
        node: match objects.nodes[pod.node] {
            Some(true) => NodeFacts::Ready,
            Some(false) => NodeFacts::NotReady,
            None => NodeFacts::Gone(times.node_gone),
        },
    });
    let now_uid = set.map(|set| uid(set.uid)).unwrap_or_default();
    let set =
        set.map(|set| SetFacts { uid: &now_uid, start: set.start, replicas: set.replicas, deleting: set.deleting });
    judge(&facts, pod, set, &Policy { delay: seconds(DELAY), ..Policy::default() })
}
