//! What authors of pools may leave out, and readers expect.

use holdfast_api::ippool::SpiderIPPool;
use holdfast_core::pool::Family;

use super::Controller;

impl Controller {
    /// Fills in the version of a pool that names none; columns and scripts show it. Answers whether it was to do.
    pub(super) async fn fill_ip_version(&self, name: &str) -> bool {
        let Some(pool) = self.reflectors.pool(name) else { return false };
        let Some(version) = missing_version(&pool) else { return false };
        if let Err(error) = self.store.set_pool_version(&pool, version).await {
            self.pool_failed(name, &error, "its version was not filled in");
        }
        true
    }
}

/// The version of a pool that does not say it and whose subnet does.
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
    fn the_subnet_says_the_version() {
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
