//! The finalizer of the pools: a pool is held against deletion while any of its addresses is in use.

use holdfast_api::{
    claim::{ClaimState, IPClaim},
    ippool::{FINALIZER, SpiderIPPool},
    store::StoreError,
};
use kube::ResourceExt;

use crate::{context::Context, index::Index};

/// Adds the finalizer to a pool, or removes it from one that is being deleted and of which no address is in use. Returns
/// whether there was anything to change.
pub(crate) async fn sync(context: &Context, index: &Index, name: &str) -> bool {
    let Some(pool) = context.reflectors.pool(name) else { return false };
    try_sync(context, index, &pool).await.unwrap_or_else(|error| {
        context.pool_write_failed(name, &error, "the pool's finalizer was not written");
        true
    })
}

async fn try_sync(context: &Context, index: &Index, pool: &SpiderIPPool) -> Result<bool, StoreError> {
    let (store, name) = (&context.store, pool.name_any());
    let held = pool.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let deleted = pool.metadata.deletion_timestamp.is_some();
    match (deleted, held) {
        (false, false) => store.set_finalizer(pool, true).await.map(|()| true),
        (true, true) if !index.claims_of_pool(&name).any(|claim| !claim.released) => {
            let claims = store.pool_claims(&name).await?;
            if claims.iter().any(is_held) {
                return Ok(false);
            }
            // Their cooldowns end with the pool.
            for claim in &claims {
                store.finish_release(claim).await?;
            }
            store.set_finalizer(pool, false).await?;
            tracing::info!(pool = name, "no address of the pool is in use any more: its deletion goes on");
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn is_held(claim: &IPClaim) -> bool {
    claim.spec.state == ClaimState::Held
}
