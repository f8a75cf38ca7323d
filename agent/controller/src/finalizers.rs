//! Pools are held against deletion while addresses of theirs are in use.

use holdfast_api::{
    claim::{ClaimState, IPClaim},
    ippool::{FINALIZER, SpiderIPPool},
    store::StoreError,
};
use kube::ResourceExt;

use super::Controller;

impl Controller {
    /// Holds a pool, or lets it go if it is to go and nothing of it is in use. Answers whether it was to do.
    pub(super) async fn hold_pool(&self, name: &str) -> bool {
        let Some(pool) = self.reflectors.pool(name) else { return false };
        self.try_hold(&pool).await.unwrap_or_else(|error| {
            self.pool_failed(name, &error, "its finalizer is not as it should be");
            true
        })
    }

    async fn try_hold(&self, pool: &SpiderIPPool) -> Result<bool, StoreError> {
        let name = pool.name_any();
        let held = pool.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let going = pool.metadata.deletion_timestamp.is_some();
        match (going, held) {
            (false, false) => self.store.set_finalizer(pool, true).await.map(|()| true),
            (true, true) if !self.state.index.claims_of_pool(&name).any(|claim| !claim.released) => {
                let claims = self.store.pool_claims(&name).await?;
                if claims.iter().any(is_held) {
                    return Ok(false);
                }
                self.end_rests(&claims).await?;
                self.store.set_finalizer(pool, false).await?;
                tracing::info!(pool = name, "nothing of the pool is in use any more; it goes");
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn is_held(claim: &IPClaim) -> bool {
    claim.spec.state == ClaimState::Held
}
