//! Pools: what the controller writes into them. Their spec is their author's.

use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Store, StoreError};
use crate::{
    FINALIZER,
    ippool::{IpPoolStatus, SpiderIPPool},
    reserved::SpiderReservedIP,
};

impl Store {
    fn pool_api(&self) -> Api<SpiderIPPool> {
        Api::all(self.client.clone())
    }

    /// All pools, as the API server has them now.
    pub async fn pools(&self) -> Result<Vec<SpiderIPPool>, StoreError> {
        let pools = self.pool_api().list(&ListParams::default()).await;
        pools.map(|list| list.items).map_err(|error| StoreError::new("list", "the pools", error))
    }

    /// All reserved addresses, as the API server has them now.
    pub async fn reserved(&self) -> Result<Vec<SpiderReservedIP>, StoreError> {
        let api: Api<SpiderReservedIP> = Api::all(self.client.clone());
        let reserved = api.list(&ListParams::default()).await;
        reserved.map(|list| list.items).map_err(|error| StoreError::new("list", "the reserved addresses", error))
    }

    /// Makes a pool's status what it should be. Fails with a conflict where the pool changed since it was read: what is
    /// right may be another status by now, and another controller may have written it. A pool that is gone needs none.
    pub async fn write_pool_status(&self, pool: &SpiderIPPool, status: &IpPoolStatus) -> Result<(), StoreError> {
        let (name, what) = (pool.name_any(), || format!("pool {}", pool.name_any()));
        self.check_gate(|| format!("the status of {}", what()))?;
        // Absent fields are written as null: a merge leaves alone what is not named.
        let patch = json!({"metadata": {"resourceVersion": pool.resource_version()}, "status": {
            "allocatedIPs": status.allocated_ips,
            "totalIPCount": status.total_ip_count,
            "allocatedIPCount": status.allocated_ip_count,
            "conditions": status.conditions,
        }});
        let written = self.pool_api().patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_fine(written.map(drop)).map_err(|error| StoreError::new("update the status of", what(), error))
    }

    /// Holds a pool against deletion, or lets it go. Fails with a conflict where the pool changed since it was read.
    pub async fn set_finalizer(&self, pool: &SpiderIPPool, held: bool) -> Result<(), StoreError> {
        let mut finalizers = pool.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if held {
            finalizers.push(FINALIZER.to_owned());
        }
        self.patch_pool(pool, json!({"metadata": {"finalizers": finalizers}})).await
    }

    /// Names the version of a pool whose author left it out. Fails with a conflict where the pool changed since it was
    /// read: its author may be naming another subnet right now.
    pub async fn set_pool_version(&self, pool: &SpiderIPPool, version: u8) -> Result<(), StoreError> {
        self.patch_pool(pool, json!({"spec": {"ipVersion": version}})).await
    }

    async fn patch_pool(&self, pool: &SpiderIPPool, mut patch: Value) -> Result<(), StoreError> {
        let name = pool.name_any();
        self.check_gate(|| format!("pool {name}"))?;
        patch["metadata"]["resourceVersion"] = json!(pool.resource_version());
        let written = self.pool_api().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_fine(written.map(drop)).map_err(|error| StoreError::new("update", format!("pool {name}"), error))
    }
}

fn gone_is_fine(written: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(()),
        other => other,
    }
}
