//! `spec.ipVersion` of pools whose author left it out. Columns of `kubectl get` and scripts read it.

use holdfast_api::ippool::SpiderIPPool;
use holdfast_core::pool::Family;

use crate::context::Context;

/// Fills in the version of a pool that names none. Returns whether there was anything to fill in.
pub(crate) async fn fill(context: &Context, name: &str) -> bool {
    let Some(pool) = context.reflectors.pool(name) else { return false };
    let Some(version) = missing_version(&pool) else { return false };
    if let Err(error) = context.store.set_pool_version(&pool, version).await {
        context.pool_write_failed(name, &error, "the pool's IP version was not filled in");
    }
    true
}

/// Returns the version of a pool that does not name it, by its subnet.
fn missing_version(pool: &SpiderIPPool) -> Option<u8> {
    let absent = pool.spec.ip_version.is_none() && pool.metadata.deletion_timestamp.is_none();
    let parsed = absent.then(|| pool.spec.parse().ok())??;
    Some(match parsed.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_version_is_that_of_the_subnet() {
        for (spec, version) in [
            (json!({"subnet": "10.0.0.0/24"}), Some(4)),
            (json!({"subnet": "fd00::/64"}), Some(6)),
            (json!({"subnet": "10.0.0.0/24", "ipVersion": 4}), None),
            (json!({"subnet": "somewhere"}), None),
        ] {
            let pool = SpiderIPPool::new("p", serde_json::from_value(spec).unwrap());
            assert_eq!(missing_version(&pool), version);
        }
    }
}
