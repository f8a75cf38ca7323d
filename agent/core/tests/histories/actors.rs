//! The actors other than the collector: users, the StatefulSet controller, kubelets, runtimes and agents.

use crate::world::{Claim, Endpoint, NODES, PODS, Pod, Random, SETS, Sandbox, Set, Work, World, set_of, small};

impl World {
    /// One random step of an actor other than the collector.
    pub(crate) fn act(&mut self, random: &mut Random) {
        match random.below(32) {
            0 => self.change_set(random),
            1 if random.one_in(3) => self.change_node(random),
            1 | 2 => self.change_pod(random),
            3..6 => self.create_pod(random),
            6 | 7 => {
                let most = if random.one_in(4) { 40 } else { 8 };
                self.advance_clock(1 + random.below(most) as u64);
            }
            8..13 => self.start_sandbox(random),
            13 | 14 => self.end_sandbox(random),
            _ => {
                if !self.sandboxes.is_empty() {
                    let at = random.below(self.sandboxes.len());
                    // Every fourth agent hangs between two writes, long enough to be taken for dead.
                    if !self.sandboxes[at].container.is_multiple_of(4) || random.one_in(16) {
                        self.step(at, random.below(7));
                    }
                }
            }
        }
    }

    fn change_set(&mut self, random: &mut Random) {
        let (at, uid) = (random.below(SETS.len()), self.fresh());
        let set = &mut self.truth.sets[at];
        match (*set, random.below(6)) {
            (None, _) => *set = Some(Set { uid, start: 0, replicas: 3, deleting: false }),
            (Some(_), 0) => *set = None,
            (Some(before), 1) => *set = Some(Set { deleting: true, ..before }),
            (Some(before), 2) => *set = Some(Set { start: small(random.below(3)), ..before }),
            (Some(before), _) => *set = Some(Set { replicas: small(random.below(4)), ..before }),
        }
    }

    fn change_node(&mut self, random: &mut Random) {
        let at = random.below(NODES);
        let node = &mut self.truth.nodes[at];
        match *node {
            None => *node = Some(true),
            Some(_) if random.one_in(4) => {
                *node = None;
                // The addresses are lost with the node's object. The collector waits only in case it is created again.
                for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.node == at) {
                    sandbox.doomed = true;
                }
            }
            Some(ready) => *node = Some(!ready),
        }
    }

    /// Creates a pod: one that its StatefulSet wants, or one that a user creates under any name.
    fn create_pod(&mut self, random: &mut Random) {
        let (name, node) = (random.below(PODS.len()), random.below(NODES));
        if self.truth.pods[name].is_some() || self.truth.nodes[node].is_none() {
            return;
        }
        let set = set_of(name).and_then(|set| self.truth.sets[set]).filter(|set| !set.deleting);
        let ordinal = small(name % 3);
        let wanted = set.filter(|set| (set.start..set.start + set.replicas).contains(&ordinal));
        if set_of(name).is_some() && wanted.is_none() && !random.one_in(8) {
            return;
        }
        let uid = self.fresh();
        let set = wanted.map(|set| set.uid);
        self.truth.pods[name] = Some(Pod { uid, node, set, finished: None, terminating: None });
    }

    fn change_pod(&mut self, random: &mut Random) {
        let name = random.below(PODS.len());
        let (now, pod) = (self.now, &mut self.truth.pods[name]);
        match (pod.as_mut(), random.below(8)) {
            (Some(pod), 0) => {
                pod.finished.get_or_insert(now);
                let uid = pod.uid;
                // A finished pod's containers should have exited. Kubelets have reported the phase earlier than that.
                if !random.one_in(3) {
                    self.sandboxes.retain(|sandbox| sandbox.pod != uid);
                }
            }
            (Some(_), 1) => *pod = None,
            (Some(there), _) if there.terminating.is_none() => there.terminating = Some(now),
            // A kubelet confirms a deletion once the container is gone.
            (Some(there), _) if !self.sandboxes.iter().any(|sandbox| sandbox.pod == there.uid) => *pod = None,
            _ => {}
        }
    }

    fn start_sandbox(&mut self, random: &mut Random) {
        let name = random.below(PODS.len());
        let Some(pod) = self.truth.pods[name].filter(|pod| pod.finished.is_none() && pod.terminating.is_none()) else {
            return;
        };
        if self.truth.nodes[pod.node].is_none() || self.sandboxes.iter().any(|sandbox| sandbox.pod == pod.uid) {
            return;
        }
        let container = self.fresh();
        let (set, node) = (pod.set, pod.node);
        self.sandboxes.push(Sandbox { name, pod: pod.uid, set, node, container, work: Work::Start, doomed: false });
    }

    /// A container exits: with a DEL, which may be late, or without one.
    fn end_sandbox(&mut self, random: &mut Random) {
        if self.sandboxes.is_empty() {
            return;
        }
        let at = random.below(self.sandboxes.len());
        if random.one_in(4) {
            self.sandboxes.swap_remove(at);
            return;
        }
        self.delete(at);
    }

    /// DEL. It acts only for the container that the endpoint names.
    fn delete(&mut self, at: usize) {
        let sandbox = self.sandboxes[at];
        let version = self.fresh();
        let slot = &mut self.truth.endpoints[sandbox.name];
        match slot.filter(|endpoint| endpoint.container == sandbox.container && endpoint.bound) {
            Some(endpoint) if endpoint.set.is_some() => {
                *slot = Some(Endpoint { version, bound: false, container: 0, ..endpoint });
                self.sandboxes.swap_remove(at);
            }
            Some(endpoint) => {
                *slot = None;
                self.sandboxes[at].work = Work::Mark { address: endpoint.address };
                self.sandboxes[at].doomed = true;
            }
            None => {
                self.events.insert("late DEL");
                self.sandboxes.swap_remove(at);
            }
        }
    }

    /// One step of an agent.
    pub(crate) fn step(&mut self, at: usize, choice: usize) {
        let sandbox = self.sandboxes[at];
        let name = sandbox.name;
        match sandbox.work {
            Work::Start => {
                if self.is_current(&sandbox) {
                    self.allocate(at, choice);
                }
            }
            Work::Write { address, read } => {
                let before = self.truth.endpoints[name];
                if before.map(|endpoint| endpoint.version) == read {
                    let version = self.fresh();
                    let (pod, set, container) = (sandbox.pod, sandbox.set, sandbox.container);
                    let retained = name == 2 || name == 5;
                    self.truth.endpoints[name] =
                        Some(Endpoint { version, pod, set, bound: true, container, address, retained });
                    self.sandboxes[at].work = Work::Verify { address };
                } else {
                    self.sandboxes[at].work = Work::Start;
                }
            }
            Work::Verify { address } => self.verify(at, address),
            Work::Live { .. } => {}
            Work::Mark { address } => {
                let listed = self.truth.endpoints[name].is_some_and(|endpoint| endpoint.address == address);
                match self.truth.claims[address].filter(|claim| claim.owner == name && !claim.released && !listed) {
                    Some(claim) => self.sandboxes[at].work = Work::Marking { address, claim: claim.version },
                    None => {
                        self.sandboxes.swap_remove(at);
                    }
                }
            }
            Work::Marking { address, claim } => {
                self.mark(address, claim);
                self.sandboxes.swap_remove(at);
            }
        }
    }

    /// Keeps the endpoint's address, or acquires another.
    fn allocate(&mut self, at: usize, choice: usize) {
        let sandbox = self.sandboxes[at];
        let name = sandbox.name;
        let before = self.truth.endpoints[name];
        let read = before.map(|endpoint| endpoint.version);
        let kept = before
            .filter(|endpoint| endpoint.pod == sandbox.pod || (endpoint.set.is_some() && endpoint.set == sandbox.set));
        let address = match kept {
            Some(endpoint) if self.truth.claims[endpoint.address].is_none_or(|claim| claim.owner == name) => {
                endpoint.address
            }
            _ => {
                let version = self.fresh();
                match self.truth.claims[choice] {
                    None => {}
                    Some(claim) if claim.owner == name => {}
                    Some(_) => return,
                }
                self.truth.claims[choice] = Some(Claim { version, owner: name, released: false });
                choice
            }
        };
        self.sandboxes[at].work = Work::Write { address, read };
    }

    fn verify(&mut self, at: usize, address: usize) {
        let sandbox = self.sandboxes[at];
        let name = sandbox.name;
        let version = self.fresh();
        self.sandboxes[at].work = match self.truth.claims[address] {
            Some(claim) if claim.owner == name && !claim.released => {
                self.events.insert("live");
                Work::Live { address }
            }
            Some(claim) if claim.owner == name => {
                self.events.insert("mark reverted");
                self.truth.claims[address] = Some(Claim { version, released: false, ..claim });
                Work::Verify { address }
            }
            None => {
                self.events.insert("claim recreated");
                self.truth.claims[address] = Some(Claim { version, owner: name, released: false });
                Work::Verify { address }
            }
            Some(_) => {
                self.events.insert("lost");
                Work::Start
            }
        };
    }

    /// Marks a claim as released, if it is at the version that was read.
    pub(crate) fn mark(&mut self, address: usize, read: u32) {
        let version = self.fresh();
        if let Some(claim) = self.truth.claims[address].filter(|claim| claim.version == read) {
            self.events.insert("marked");
            self.truth.claims[address] = Some(Claim { version, released: true, ..claim });
        } else {
            self.events.insert("changed since");
        }
    }

    /// Every actor but the collector finishes: ADDs end, terminating pods lose their containers and are deleted.
    pub(crate) fn settle(&mut self) {
        for _ in 0..6 {
            for at in (0..self.sandboxes.len()).rev() {
                for choice in 0..10 {
                    if at < self.sandboxes.len() {
                        self.step(at, choice % 7);
                    }
                }
            }
            for name in 0..PODS.len() {
                let Some(pod) = self.truth.pods[name] else { continue };
                let lost = self.truth.nodes[pod.node].is_none();
                if pod.terminating.is_some() || lost {
                    while let Some(at) = self.sandboxes.iter().position(|sandbox| {
                        sandbox.pod == pod.uid && !matches!(sandbox.work, Work::Mark { .. } | Work::Marking { .. })
                    }) {
                        if lost {
                            self.sandboxes.swap_remove(at);
                        } else {
                            self.delete(at);
                        }
                    }
                    self.truth.pods[name] = None;
                }
            }
        }
        self.shown = self.truth;
    }
}
