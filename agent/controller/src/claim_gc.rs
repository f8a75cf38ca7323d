//! Garbage collection of claims: those that no endpoint lists, and those whose cooldown is over.

use std::{sync::Arc, time::Duration};

use holdfast_api::{
    claim::{IPClaim, name_of},
    store::{ReleaseOutcome, StoreError},
};
use holdfast_core::collect::{self, ClaimFacts, ClaimVerdict, Cooldowns, FirstSeen, Reason};
use kube::{Resource, ResourceExt};

use crate::{assessment::Assessment, context::Context, delay_queue::Requeue, index::Index, reflectors::Reflectors};

/// A claim that is due to be marked, or deleted.
#[derive(Debug, PartialEq)]
pub(crate) struct DueClaim {
    claim: Arc<IPClaim>,
    verdict: ClaimVerdict,
}

/// The state of a claim whose duration decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ClaimState {
    uid: Option<String>,
    resource_version: Option<String>,
    listed: bool,
    pod_exists: bool,
}

/// The claims, and since when each has been in its state.
#[derive(Debug, Default)]
pub(crate) struct ClaimCollector {
    states: FirstSeen<String, ClaimState>,
}

impl ClaimCollector {
    /// Judges a claim from the caches.
    pub(crate) fn assess(
        &mut self,
        name: &str,
        index: &Index,
        reflectors: &Reflectors,
        cooldowns: &Cooldowns,
        now: Duration,
    ) -> Assessment<DueClaim> {
        let (Some(claim), Some(indexed)) = (reflectors.claim(name), index.claim(name)) else {
            self.states.forget(name);
            return Assessment::Keep;
        };
        let listed = index.is_listed(indexed);
        let pod_exists = indexed.endpoint.as_ref().is_some_and(|endpoint| reflectors.pod(endpoint).is_some());
        let state = ClaimState { uid: claim.uid(), resource_version: claim.resource_version(), listed, pod_exists };
        let seen_for = self.states.seen_for(name.to_owned(), state, now);
        let facts = ClaimFacts { released: indexed.released, listed, pod: pod_exists, seen_for };
        match collect::judge_claim(&facts, cooldowns) {
            ClaimVerdict::Keep => Assessment::Keep,
            ClaimVerdict::Wait(left) => Assessment::RequeueAfter(left),
            verdict => Assessment::Act(DueClaim { claim, verdict }),
        }
    }
}

/// Marks or deletes the claims that are due.
pub(crate) async fn collect(context: &Context, due: Vec<DueClaim>) {
    let each = context.for_each(due, |due| async move {
        if let Err(error) = collect_one(context, &due).await {
            context.outcomes.collection_failed(&due.claim.spec.address, &error);
            context.requeue(Requeue::Claim(due.claim.name_any()));
        }
    });
    each.await;
}

async fn collect_one(context: &Context, due: &DueClaim) -> Result<(), StoreError> {
    let (claim, address) = (&due.claim, due.claim.spec.address);
    let collected =
        |reason| context.outcomes.claim_collected(address, &claim.spec.endpoint, claim.object_ref(&()), reason);
    match claim.endpoint() {
        // Its name is no address, so it locks none, and no address becomes free with it.
        _ if claim.name_any() != name_of(address) => context.store.delete_claim(claim).await.map(drop)?,
        Some(owner) if due.verdict == ClaimVerdict::Mark => {
            if context.store.mark_released(address, &owner).await? {
                collected(Reason::Unlisted);
            }
        }
        // A claim that names no endpoint is listed by none, so it needs no mark and no cooldown.
        owner => {
            let outcome = context.store.finish_release(claim).await?;
            tracing::debug!(%address, ?outcome, "finished the release of a claim");
            if outcome == ReleaseOutcome::Deleted {
                collected(if owner.is_some() { Reason::CooldownOver } else { Reason::Unlisted });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_api::{
        claim,
        endpoint::{EndpointIp, EndpointStatus, Holder, SpiderEndpoint},
    };
    use holdfast_core::id::PodName;
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::reflectors::Writers;

    const COOLDOWNS: Cooldowns = Cooldowns {
        unlisted: Duration::from_secs(60),
        orphaned: Duration::from_secs(5),
        released: Duration::from_secs(30),
    };

    struct Fixture {
        collector: ClaimCollector,
        index: Index,
        reflectors: Reflectors,
        writers: Writers,
        pod: PodName,
    }

    impl Fixture {
        fn new() -> Self {
            let (reflectors, writers) = Reflectors::new();
            let pod = PodName::new("d", "web-0");
            Self { collector: ClaimCollector::default(), index: Index::default(), reflectors, writers, pod }
        }

        fn claim(&mut self, state: claim::ClaimState) {
            let mut claim = IPClaim::held("10.0.0.1".parse().unwrap(), "p", &self.pod);
            claim.spec.state = state;
            self.index.set_claim("10.0.0.1", Some(&claim));
            self.writers.claims.apply_watcher_event(&Event::Apply(claim));
        }

        fn list(&mut self) {
            let mut endpoint = SpiderEndpoint::for_pod(&self.pod);
            let ip = EndpointIp { ipv4: Some("10.0.0.1/24".into()), ..EndpointIp::default() };
            let current = Holder { ips: vec![ip], ..Holder::default() };
            endpoint.status = Some(EndpointStatus { current, ..EndpointStatus::default() });
            self.index.set_endpoint(&self.pod, Some(&endpoint));
        }

        /// Returns the verdict; none where the claim is kept, and the time left in seconds where it is requeued.
        fn assess(&mut self, now: u64) -> Result<Option<ClaimVerdict>, u64> {
            let now = Duration::from_secs(now);
            match self.collector.assess("10.0.0.1", &self.index, &self.reflectors, &COOLDOWNS, now) {
                Assessment::Keep => Ok(None),
                Assessment::RequeueAfter(left) => Err(left.as_secs()),
                Assessment::Act(due) => Ok(Some(due.verdict)),
            }
        }
    }

    #[test]
    fn a_listed_claim_is_kept() {
        let mut world = Fixture::new();
        assert_eq!(world.assess(0), Ok(None), "there is no claim");
        world.claim(claim::ClaimState::Held);
        world.list();
        assert_eq!(world.assess(1000), Ok(None));
    }

    #[test]
    fn an_unlisted_claim_is_marked_after_its_cooldown() {
        let mut world = Fixture::new();
        world.claim(claim::ClaimState::Held);
        assert_eq!(world.assess(10), Err(5), "no pod, so no ADD is under way");
        assert_eq!(world.assess(15), Ok(Some(ClaimVerdict::Mark)));
        let pod = serde_json::from_value(serde_json::json!({"metadata": {"namespace": "d", "name": "web-0"}}));
        world.writers.pods.apply_watcher_event(&Event::Apply(pod.unwrap()));
        assert_eq!(world.assess(16), Err(60), "the pod's ADD may list it yet");
        assert_eq!(world.assess(76), Ok(Some(ClaimVerdict::Mark)));
        world.list();
        assert_eq!(world.assess(77), Ok(None));
    }

    #[test]
    fn a_released_claim_is_finished_after_its_cooldown_or_when_it_is_listed() {
        let mut world = Fixture::new();
        world.claim(claim::ClaimState::Released);
        assert_eq!(world.assess(10), Err(30));
        assert_eq!(world.assess(40), Ok(Some(ClaimVerdict::Finish)));
        world.list();
        assert_eq!(world.assess(41), Ok(Some(ClaimVerdict::Finish)));
    }

    #[test]
    fn a_claim_that_was_deleted_and_created_again_is_judged_anew() {
        let mut world = Fixture::new();
        world.claim(claim::ClaimState::Released);
        assert_eq!(world.assess(10), Err(30));
        let gone = IPClaim::held("10.0.0.1".parse().unwrap(), "p", &world.pod);
        world.writers.claims.apply_watcher_event(&Event::Delete(gone));
        assert_eq!(world.assess(30), Ok(None));
        world.claim(claim::ClaimState::Released);
        assert_eq!(world.assess(50), Err(30));
    }
}
