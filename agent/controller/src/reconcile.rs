//! Rounds: what changed and what has come due, looked at once.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use holdfast_core::id::PodName;
use kube::ResourceExt;

use super::{BATCH, Controller, DEBOUNCE, RETRY, Requeue, State, endpoint_gc::is_ready, pending_changes::Change};

/// What one round looks at.
#[derive(Debug, Default)]
struct WorkList {
    endpoints: HashSet<PodName>,
    claims: HashSet<String>,
    pools: HashSet<String>,
    import: bool,
}

impl WorkList {
    fn add(&mut self, due: Requeue) {
        match due {
            Requeue::Endpoint(name) => drop(self.endpoints.insert(name)),
            Requeue::Claim(name) => drop(self.claims.insert(name)),
            Requeue::Pool(name) => drop(self.pools.insert(name)),
            Requeue::Import => self.import = true,
        }
    }
}

impl Controller {
    /// Works as the leader, for as long as it is polled.
    pub(super) async fn lead(&mut self) {
        self.state = State { import_pause: RETRY, ..State::default() };
        self.import(self.now()).await;
        let changes = Arc::clone(self.reflectors.changes());
        changes.add_everything();
        let mut next_scan = self.now() + self.settings.full_scan;
        loop {
            if self.now() >= next_scan {
                changes.add_everything();
                next_scan = self.now() + self.settings.full_scan;
            }
            self.reconcile().await;
            let next = self.state.delay_queue.next().map_or(next_scan, |next| next.min(next_scan));
            let pause = next.saturating_sub(self.now());
            self.heartbeat.idle_for(pause);
            tokio::select! {
                () = changes.notified() => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(pause) => {}
            }
            self.heartbeat.progress();
        }
    }

    async fn reconcile(&mut self) {
        let now = self.now();
        let mut work = WorkList::default();
        self.state.delay_queue.take(now).into_iter().for_each(|due| work.add(due));
        let batch = self.reflectors.changes().take();
        if batch.everything {
            self.look_at_everything(&mut work);
        }
        for change in batch.changes {
            self.take_in(change, &mut work);
        }
        if work.import {
            self.import(now).await;
        }
        let missing: Vec<_> = work.endpoints.iter().filter_map(|name| self.missing_claims(name, now)).collect();
        self.create_missing_claims(missing).await;
        if self.settings.collect {
            self.collect(&mut work, now).await;
        }
        self.metrics.pools(self.reflectors.pools.state().len());
        for pool in &work.pools {
            // One change of a pool at a time: the next round sees it and makes the other.
            if !self.fill_ip_version(pool).await && !self.hold_pool(pool).await {
                self.write_pool_status(pool, now).await;
            }
            self.heartbeat.progress();
        }
        let failed = std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner));
        for due in failed {
            self.state.delay_queue.set(now + RETRY, due);
        }
    }

    async fn collect(&mut self, work: &mut WorkList, now: Duration) {
        let mut candidates = Vec::new();
        for name in std::mem::take(&mut work.endpoints) {
            if candidates.len() < BATCH {
                candidates.extend(self.leak_candidate(&name, now));
            } else {
                self.state.delay_queue.set(now, Requeue::Endpoint(name));
            }
        }
        self.collect_endpoints(candidates).await;
        let mut due = Vec::new();
        for name in std::mem::take(&mut work.claims) {
            if due.len() < BATCH {
                due.extend(self.due_claim(&name, now));
            } else {
                self.state.delay_queue.set(now, Requeue::Claim(name));
            }
        }
        self.collect_claims(due).await;
    }

    /// Takes in everything that the caches have, and what they have no more.
    fn look_at_everything(&mut self, work: &mut WorkList) {
        let endpoints = self.reflectors.endpoints.state();
        let known: HashSet<_> =
            endpoints.iter().map(|endpoint| endpoint.pod()).chain(self.state.index.endpoints().cloned()).collect();
        for name in known {
            self.take_in(Change::Endpoint(name), work);
        }
        let claims = self.reflectors.claims.state();
        let known: HashSet<_> =
            claims.iter().map(|claim| claim.name_any()).chain(self.state.index.claims().cloned()).collect();
        for name in known {
            self.take_in(Change::Claim(name), work);
        }
        let nodes = self.reflectors.nodes.state();
        let known: HashSet<_> =
            nodes.iter().map(|node| node.name_any()).chain(self.state.ready_nodes.keys().cloned()).collect();
        for name in known {
            self.take_in(Change::Node(name), work);
        }
        let State { lost_nodes, index, .. } = &mut self.state;
        lost_nodes.retain(|node| index.endpoints_of_node(node).next().is_some());
        work.pools.extend(self.reflectors.pools.state().iter().map(|pool| pool.name_any()));
    }

    /// Takes one change in, and adds what it may concern.
    fn take_in(&mut self, change: Change, work: &mut WorkList) {
        match change {
            Change::Endpoint(name) => {
                let endpoint = self.reflectors.endpoint(&name);
                let touched = self.state.index.set_endpoint(&name, endpoint.as_deref());
                work.claims.extend(touched.claims);
                work.pools.extend(touched.pools);
                work.endpoints.insert(name);
            }
            Change::Claim(name) => {
                let claim = self.reflectors.claim(&name);
                let locked = self.state.index.set_claim(&name, claim.as_deref());
                work.endpoints.extend(locked.endpoints);
                work.pools.extend(locked.pools);
                work.claims.insert(name);
            }
            Change::Pod(name) => {
                work.claims.extend(self.claims_of(&name));
                work.endpoints.insert(name);
            }
            Change::Set(name) => work.endpoints.extend(self.state.index.endpoints_of_set(&name).cloned()),
            Change::Node(name) => {
                let ready = self.reflectors.node(&name).map(|node| is_ready(&node));
                let before = match ready {
                    Some(ready) => {
                        self.state.lost_nodes.forget(&name);
                        self.state.ready_nodes.insert(name.clone(), ready)
                    }
                    None => self.state.ready_nodes.remove(&name),
                };
                // Most changes of a node are its kubelet's sign of life.
                if before != ready {
                    work.endpoints.extend(self.state.index.endpoints_of_node(&name).cloned());
                }
            }
            Change::Reserved => work.pools.extend(self.reflectors.pools.state().iter().map(|pool| pool.name_any())),
            Change::Pool(name) => {
                let pool = self.reflectors.pool(&name);
                let generation = pool.map(|pool| pool.metadata.generation);
                // Another pool's addresses may have come to overlap with these, or not any more. A new status changes
                // no addresses.
                let before = match generation {
                    Some(generation) => self.state.pools.insert(name.clone(), generation),
                    None => self.state.pools.remove(&name),
                };
                if before != generation {
                    work.pools.extend(self.reflectors.pools.state().iter().map(|pool| pool.name_any()));
                }
                work.pools.insert(name);
            }
        }
    }
}
