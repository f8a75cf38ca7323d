//! The leader's work: one reconciliation after the other, of the objects that changed and of those that are due.

use std::{sync::Arc, time::Duration};

use crate::{
    change_tracker::{ChangeTracker, WorkList},
    claim_gc::{self, ClaimCollector},
    context::Context,
    delay_queue::{DelayQueue, Requeue},
    endpoint_gc::{self, EndpointCollector},
    finalizers,
    import::Importer,
    ip_version,
    missing_claims::{self, MissingClaims},
    pending_changes::Change,
    pool_status::{PoolMetrics, PoolStatusWriter},
};

/// The time in which changes gather before a reconciliation takes them.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The number of endpoints, and of claims, that one reconciliation collects. Between two, the pools' statuses are written.
const BATCH: usize = 256;
/// The pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The leader's work, and what it knows beyond the caches. A new leader begins with an empty one.
pub(crate) struct Reconciler {
    context: Arc<Context>,
    tracker: ChangeTracker,
    delay_queue: DelayQueue,
    importer: Importer,
    missing_claims: MissingClaims,
    endpoints: EndpointCollector,
    claims: ClaimCollector,
    pool_status: PoolStatusWriter,
}

impl Reconciler {
    pub(crate) fn new(context: &Arc<Context>, metrics: PoolMetrics) -> Self {
        Self {
            context: Arc::clone(context),
            tracker: ChangeTracker::default(),
            delay_queue: DelayQueue::default(),
            importer: Importer::default(),
            missing_claims: MissingClaims::default(),
            endpoints: EndpointCollector::default(),
            claims: ClaimCollector::default(),
            pool_status: PoolStatusWriter::new(metrics),
        }
    }

    /// Works as the leader, for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let context = Arc::clone(&self.context);
        let (changes, full_scan) = (context.reflectors.changes(), context.settings.full_scan);
        self.import(context.now()).await;
        changes.add_everything();
        let mut next_scan = context.now() + full_scan;
        loop {
            if context.now() >= next_scan {
                changes.add_everything();
                next_scan = context.now() + full_scan;
            }
            self.reconcile(context.now()).await;
            let next = self.delay_queue.next_due().map_or(next_scan, |next| next.min(next_scan));
            let pause = next.saturating_sub(context.now());
            context.heartbeat.idle_for(pause);
            tokio::select! {
                () = changes.notified() => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(pause) => {}
            }
            context.heartbeat.progress();
        }
    }

    async fn reconcile(&mut self, now: Duration) {
        let mut work = self.take_work(now);
        if work.import {
            self.import(now).await;
        }
        self.create_missing_claims(&work, now).await;
        if self.context.settings.collect {
            self.collect_endpoints(&mut work, now).await;
            self.collect_claims(&mut work, now).await;
        }
        self.pool_status.set_pool_count(self.context.reflectors.pools.state().len());
        for pool in &work.pools {
            self.reconcile_pool(pool, now).await;
            self.context.heartbeat.progress();
        }
        for item in self.context.take_requeued() {
            self.delay_queue.add(now + RETRY, item);
        }
    }

    /// Returns the objects that are due or changed, and those that depend on them.
    fn take_work(&mut self, now: Duration) -> WorkList {
        let Self { context, tracker, delay_queue, endpoints, .. } = self;
        let (reflectors, mut work) = (&context.reflectors, WorkList::default());
        delay_queue.take_due(now).into_iter().for_each(|item| work.add(item));
        let batch = reflectors.changes().take();
        if batch.everything {
            reflectors
                .nodes
                .state()
                .iter()
                .filter_map(|node| node.metadata.name.as_deref())
                .for_each(|node| endpoints.node_exists(node));
            tracker.apply_all(reflectors, &mut work);
            endpoints.forget_empty_nodes(&tracker.index);
        }
        for change in batch.changes {
            if let Change::Node(node) = &change
                && reflectors.node(node).is_some()
            {
                endpoints.node_exists(node);
            }
            tracker.apply(change, reflectors, &mut work);
        }
        work
    }

    async fn import(&mut self, now: Duration) {
        if let Some(pause) = self.importer.run(&self.context).await {
            self.delay_queue.add(now + pause, Requeue::Import);
        }
    }

    async fn create_missing_claims(&mut self, work: &WorkList, now: Duration) {
        let mut missing = Vec::new();
        for name in &work.endpoints {
            let assessment = self.missing_claims.assess(name, &self.tracker.index, &self.context.reflectors, now);
            missing.extend(self.delay_queue.act_or_requeue(assessment, now, || Requeue::Endpoint(name.clone())));
        }
        missing_claims::create(&self.context, missing).await;
    }

    async fn collect_endpoints(&mut self, work: &mut WorkList, now: Duration) {
        let mut candidates = Vec::new();
        for name in work.endpoints.drain() {
            if candidates.len() == BATCH {
                self.delay_queue.add(now, Requeue::Endpoint(name));
                continue;
            }
            let Context { reflectors, settings, .. } = &*self.context;
            let assessment = self.endpoints.assess(&name, reflectors, settings, now);
            candidates.extend(self.delay_queue.act_or_requeue(assessment, now, || Requeue::Endpoint(name)));
        }
        endpoint_gc::collect(&self.context, candidates).await;
    }

    async fn collect_claims(&mut self, work: &mut WorkList, now: Duration) {
        let mut due = Vec::new();
        for name in work.claims.drain() {
            if due.len() == BATCH {
                self.delay_queue.add(now, Requeue::Claim(name));
                continue;
            }
            let index = &self.tracker.index;
            // A pool that is held back has addresses in use whose endpoint may still have to be created.
            if index.claim(&name).is_some_and(|claim| self.importer.holds_back(&claim.pool)) {
                continue;
            }
            let Context { reflectors, settings, .. } = &*self.context;
            let assessment = self.claims.assess(&name, index, reflectors, &settings.cooldowns, now);
            due.extend(self.delay_queue.act_or_requeue(assessment, now, || Requeue::Claim(name)));
        }
        claim_gc::collect(&self.context, due).await;
    }

    /// Makes one change to a pool; the change causes another reconciliation, which makes the next.
    async fn reconcile_pool(&mut self, name: &str, now: Duration) {
        let (context, index) = (&*self.context, &self.tracker.index);
        if ip_version::fill(context, name).await || finalizers::sync(context, index, name).await {
            return;
        }
        let Some(pool) = context.reflectors.pool(name) else { return self.pool_status.forget(name) };
        if self.importer.holds_back(name) && pool.is_foreign() {
            return;
        }
        if let Some(due) = self.pool_status.write(context, index, name, now).await {
            self.delay_queue.add(due, Requeue::Pool(name.to_owned()));
        }
    }
}
