//! The API server's objects, the watches' view of them, and the invariants.

/// Pods by name: three of each StatefulSet, and two without one.
pub(crate) const PODS: [&str; 8] = ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "x", "y"];
/// StatefulSets by name.
pub(crate) const SETS: [&str; 2] = ["a", "b"];
pub(crate) const NODES: usize = 2;
pub(crate) const ADDRESSES: usize = 7;
/// The grace period of pods, in seconds.
pub(crate) const GRACE: u64 = 10;
/// The collector's delay after the grace period, in seconds.
pub(crate) const DELAY: u64 = 5;
/// The retain time of the ordinals that have one, in seconds.
pub(crate) const RETAIN: u64 = 40;

/// Converts a number of replicas, or an ordinal.
pub(crate) fn small(number: usize) -> i32 {
    i32::try_from(number).expect("there are few pods")
}

/// Returns the StatefulSet whose pods have that name.
pub(crate) fn set_of(pod: usize) -> Option<usize> {
    (pod < 6).then_some(pod / 3)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) uid: u32,
    pub(crate) node: usize,
    /// The UID of the owning StatefulSet.
    pub(crate) set: Option<u32>,
    /// The time at which it finished. Its containers may take as long to exit as those of a terminating pod.
    pub(crate) finished: Option<u64>,
    /// The time of its deletion timestamp.
    pub(crate) terminating: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) uid: u32,
    pub(crate) start: i32,
    pub(crate) replicas: i32,
    pub(crate) deleting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) version: u32,
    pub(crate) pod: u32,
    pub(crate) set: Option<u32>,
    pub(crate) bound: bool,
    pub(crate) container: u32,
    pub(crate) address: usize,
    pub(crate) retained: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) version: u32,
    pub(crate) owner: usize,
    pub(crate) released: bool,
}

/// All objects, as they are or as an actor saw them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) pods: [Option<Pod>; PODS.len()],
    pub(crate) sets: [Option<Set>; SETS.len()],
    /// True for a node that is ready; none where it is gone.
    pub(crate) nodes: [Option<bool>; NODES],
    pub(crate) endpoints: [Option<Endpoint>; PODS.len()],
    pub(crate) claims: [Option<Claim>; ADDRESSES],
}

/// A container of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) name: usize,
    pub(crate) pod: u32,
    pub(crate) set: Option<u32>,
    pub(crate) node: usize,
    pub(crate) container: u32,
    pub(crate) work: Work,
    /// True once it lost its right to the address, since it is past its grace period or its node is gone. The guard fences
    /// it.
    pub(crate) doomed: bool,
}

/// An agent's progress with a container: each step is one write, or one read for the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Start,
    /// The pod has the claim, or its endpoint lists the address; the endpoint was read at this version.
    Write {
        address: usize,
        read: Option<u32>,
    },
    Verify {
        address: usize,
    },
    Live {
        address: usize,
    },
    /// A DEL released the endpoint; it marks the claim next.
    Mark {
        address: usize,
    },
    /// The endpoint was read and does not list the address; the claim was read at this version.
    Marking {
        address: usize,
        claim: u32,
    },
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) truth: Objects,
    pub(crate) shown: Objects,
    pub(crate) past: Vec<Objects>,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) counter: u32,
    pub(crate) events: std::collections::BTreeSet<&'static str>,
}

impl Default for World {
    /// Returns a world of two nodes and two StatefulSets with three replicas each.
    fn default() -> Self {
        let set = |uid| Some(Set { uid, start: 0, replicas: 3, deleting: false });
        let truth = Objects { nodes: [Some(true); NODES], sets: [set(1), set(2)], ..Objects::default() };
        Self {
            now: 0,
            truth,
            shown: truth,
            past: Vec::new(),
            sandboxes: Vec::new(),
            counter: 2,
            events: std::collections::BTreeSet::new(),
        }
    }
}

impl World {
    /// Returns a number that was not used before, for UIDs, versions and containers.
    pub(crate) fn fresh(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// A watch shows one object, new or old, or lists all of them again.
    pub(crate) fn show(&mut self, random: &mut Random) {
        if random.one_in(12) {
            self.shown = self.truth;
            return;
        }
        if random.one_in(6) {
            if self.past.len() < 4 {
                self.past.push(self.truth);
            } else {
                let at = random.below(4);
                self.past[at] = self.truth;
            }
        }
        let old = random.one_in(5) && !self.past.is_empty();
        let from = if old { self.past[random.below(self.past.len())] } else { self.truth };
        let to = &mut self.shown;
        match random.below(12) {
            0..4 => pick(random, &from.pods, &mut to.pods),
            4 => pick(random, &from.sets, &mut to.sets),
            5 => pick(random, &from.nodes, &mut to.nodes),
            6..9 => pick(random, &from.endpoints, &mut to.endpoints),
            _ => pick(random, &from.claims, &mut to.claims),
        }
    }

    /// Returns true where the API server's pod is the container's, and not past its grace period.
    pub(crate) fn is_current(&self, sandbox: &Sandbox) -> bool {
        let pod = self.truth.pods[sandbox.name];
        pod.is_some_and(|pod| pod.uid == sandbox.pod) && !sandbox.doomed
    }

    /// Advances the clock. Containers past their grace period lose their right to their address.
    pub(crate) fn advance_clock(&mut self, seconds: u64) {
        self.now += seconds;
        for sandbox in &mut self.sandboxes {
            let pod = self.truth.pods[sandbox.name].filter(|pod| pod.uid == sandbox.pod);
            let ends = pod.map(|pod| [pod.terminating, pod.finished]).unwrap_or_default();
            sandbox.doomed |= ends.iter().flatten().any(|since| self.now >= since + GRACE + DELAY);
        }
    }

    /// Fails where an address in use is without its claim or its endpoint, or has two users.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut users = [None; ADDRESSES];
        for sandbox in self.sandboxes.iter().filter(|sandbox| self.is_current(sandbox)) {
            let Work::Live { address } = sandbox.work else { continue };
            let name = PODS[sandbox.name];
            if self.truth.claims[address].is_none_or(|claim| claim.owner != sandbox.name) {
                return Err(format!("{name} uses address {address}, whose claim is {:?}", self.truth.claims[address]));
            }
            if self.truth.endpoints[sandbox.name].is_none_or(|endpoint| endpoint.address != address) {
                return Err(format!("{name} uses address {address}, which its endpoint does not list"));
            }
            if let Some(other) = users[address].replace(sandbox.name).filter(|other| *other != sandbox.name) {
                return Err(format!("{name} and {} use address {address}", PODS[other]));
            }
        }
        Ok(())
    }

    /// Fails where an endpoint belongs neither to a live pod nor to a reserved ordinal, or a claim is not listed.
    pub(crate) fn check_quiescent(&self) -> Result<(), String> {
        for (name, endpoint) in self.truth.endpoints.iter().enumerate() {
            let Some(endpoint) = endpoint else { continue };
            let pod = self.truth.pods[name];
            let owned = pod.is_some_and(|pod| pod.uid == endpoint.pod && pod.finished.is_none());
            if !owned && !self.is_reserved(name, endpoint, pod) {
                return Err(format!("the endpoint {} is leaked: {endpoint:?}", PODS[name]));
            }
            if pod.is_none() && endpoint.bound {
                return Err(format!("the endpoint {} still names a container", PODS[name]));
            }
        }
        for (address, claim) in self.truth.claims.iter().enumerate() {
            let Some(claim) = claim else { continue };
            let lists = self.truth.endpoints[claim.owner].is_some_and(|endpoint| endpoint.address == address);
            if claim.released || !lists {
                return Err(format!("the claim of address {address} is leaked: {claim:?}"));
            }
        }
        Ok(())
    }

    fn is_reserved(&self, name: usize, endpoint: &Endpoint, pod: Option<Pod>) -> bool {
        let Some((set, uid)) = set_of(name).zip(endpoint.set) else { return false };
        let Some(set) = self.truth.sets[set].filter(|set| set.uid == uid && !set.deleting) else { return false };
        let ordinal = small(name % 3);
        (set.start..set.start + set.replicas).contains(&ordinal) || pod.is_some()
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "at {}; nodes {:?}; sets {:?}", self.now, self.truth.nodes, self.truth.sets)?;
        for (name, (pod, endpoint)) in PODS.iter().zip(self.truth.pods.iter().zip(&self.truth.endpoints)) {
            writeln!(f, "{name}: {pod:?}\n     {endpoint:?}")?;
        }
        for (address, claim) in self.truth.claims.iter().enumerate() {
            writeln!(f, "address {address}: {claim:?}")?;
        }
        self.sandboxes.iter().try_for_each(|sandbox| writeln!(f, "{sandbox:?}"))
    }
}

fn pick<T: Copy>(random: &mut Random, from: &[T], to: &mut [T]) {
    let at = random.below(from.len());
    to[at] = from[at];
}

/// A reproducible random number generator (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % (limit as u64)).expect("it is below a usize")
    }

    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}
