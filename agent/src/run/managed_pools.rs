//! The pools, as allocation and the guard know them.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::bail;
use holdfast_guard::Datapath;
use holdfast_ipam::PoolCache;
use ipnet::IpNet;
use kube::Client;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::tasks::Outcome;

/// Keeps allocation and guard informed of the pools.
pub(super) fn follow_pools(
    following: &mut JoinSet<Outcome>,
    client: &Client,
    pools: &Arc<PoolCache>,
    datapath: &Datapath,
) {
    let (watches, followed, datapath) = (client.clone(), Arc::clone(pools), datapath.clone());
    following.spawn(async move {
        let known = Mutex::new(BTreeMap::new());
        let managed = |pools: &PoolCache| {
            let mut known = known.lock();
            let managed = managed(pools, &mut known);
            if let Err(error) = datapath.set_pools(&managed) {
                tracing::error!(%error, "the guard does not know the pools as they are now");
            }
        };
        followed.watch_pools(watches, managed).await;
        bail!("the watch of the pools ended")
    });
    let (watches, followed) = (client.clone(), Arc::clone(pools));
    following.spawn(async move {
        followed.watch_reserved_ips(watches).await;
        bail!("the watch of the reserved addresses ended")
    });
}

/// The networks that the guard is to manage. A pool whose spec cannot be read (any more) keeps those that it had: its
/// addresses are in use.
fn managed(pools: &PoolCache, known: &mut BTreeMap<String, Vec<IpNet>>) -> Vec<(IpNet, u32)> {
    let all = pools.all();
    known.retain(|name, _| all.contains_key(name));
    for (name, pool) in all {
        if let Ok(parsed) = &pool.parsed {
            known.insert(name, parsed.networks());
        }
    }
    // The number is for people who dump the map; the guard only asks whether there is one.
    let numbered = known.values().zip(1u32..);
    numbered.flat_map(|(nets, number)| nets.iter().map(move |net| (*net, number))).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_api::ippool::SpiderIPPool;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pool_that_cannot_be_read_any_more_stays_managed() {
        let pool = |ips: &str| {
            let spec = json!({"subnet": "10.0.0.0/24", "ips": [ips]});
            SpiderIPPool::new("p", serde_json::from_value(spec).unwrap())
        };
        let (pools, mut known) = (PoolCache::default(), BTreeMap::new());
        pools.replace(vec![pool("10.0.0.1-10.0.0.9")], &[]);
        let before = managed(&pools, &mut known);
        assert!(!before.is_empty());
        pools.replace(vec![pool("nonsense")], &[]);
        assert_eq!(managed(&pools, &mut known), before);
        pools.replace(Vec::new(), &[]);
        assert_eq!(managed(&pools, &mut known), []);
    }
}
