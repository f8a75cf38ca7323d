//! Claims that no endpoint lists, and claims whose rest is over.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use holdfast_api::{
    claim::IPClaim,
    store::{ReleaseOutcome, StoreError},
};
use holdfast_core::{
    collect::{self, ClaimFacts, ClaimVerdict, Reason},
    id::PodName,
};
use kube::{Resource, ResourceExt};

use super::{CONCURRENCY, Controller, Requeue};

/// A claim whose time has come.
pub(super) struct DueClaim {
    claim: Arc<IPClaim>,
    verdict: ClaimVerdict,
}

impl Controller {
    /// Judges a claim as the caches show it. Answers it if its time has come.
    pub(super) fn due_claim(&mut self, name: &str, now: Duration) -> Option<DueClaim> {
        let (Some(claim), Some(known)) = (self.reflectors.claim(name), self.state.index.claim(name)) else {
            self.state.claims_seen.forget(name);
            return None;
        };
        if self.state.held_back.contains(&known.pool) {
            // What is in use there is not known yet: an endpoint may still have to be made for it.
            return None;
        }
        let listed = self.state.index.is_listed(known);
        let pod = known.endpoint.as_ref().is_some_and(|endpoint| self.reflectors.pod(endpoint).is_some());
        let seen_as = (claim.uid(), claim.resource_version(), listed, pod);
        let seen_for = self.state.claims_seen.seen_for(name.to_owned(), seen_as, now);
        let facts = ClaimFacts { released: known.released, listed, pod, seen_for };
        match collect::judge_claim(&facts, &self.settings.cooldowns) {
            ClaimVerdict::Keep => None,
            ClaimVerdict::Wait(rest) => {
                self.state.delay_queue.set(now + rest, Requeue::Claim(name.to_owned()));
                None
            }
            verdict => Some(DueClaim { claim, verdict }),
        }
    }

    pub(super) async fn collect_claims(&self, due: Vec<DueClaim>) {
        stream::iter(due)
            .for_each_concurrent(CONCURRENCY, |due| async move {
                if let Err(error) = self.collect_claim(&due).await {
                    self.outcomes.failed(&due.claim.spec.address, &error);
                    self.requeue(Requeue::Claim(due.claim.name_any()));
                }
                self.heartbeat.progress();
            })
            .await;
    }

    async fn collect_claim(&self, due: &DueClaim) -> Result<(), StoreError> {
        let claim = &due.claim;
        let address = claim.spec.address;
        let well_named = claim.name_any() == holdfast_api::claim::name_of(address);
        match claim.endpoint() {
            // Its name is no address, so it locks none, and nothing becomes free with it.
            _ if !well_named => self.store.delete_claim(claim).await.map(drop)?,
            Some(owner) if due.verdict == ClaimVerdict::Mark => {
                if self.store.mark_released(address, &owner).await? {
                    self.outcomes.claim(address, &claim.spec.endpoint, claim.object_ref(&()), Reason::Unlisted);
                }
            }
            // A claim that names no endpoint can be listed by none: there is nobody to look for.
            owner => {
                let outcome = self.store.finish_release(claim).await?;
                tracing::debug!(%address, ?outcome, "ended the rest of a claim");
                if outcome == ReleaseOutcome::Deleted {
                    let reason = if owner.is_some() { Reason::CooldownOver } else { Reason::Unlisted };
                    self.outcomes.claim(address, &claim.spec.endpoint, claim.object_ref(&()), reason);
                }
            }
        }
        Ok(())
    }

    /// Ends the rest of all claims of a pool that is to go.
    pub(super) async fn end_rests(&self, claims: &[IPClaim]) -> Result<(), StoreError> {
        for claim in claims {
            self.store.finish_release(claim).await?;
        }
        Ok(())
    }

    /// Claims whose endpoint's pod came or went count anew.
    pub(super) fn claims_of(&self, pod: &PodName) -> Vec<String> {
        self.state.index.claims_of_endpoint(pod).cloned().collect()
    }
}
