//! The controller's writes of pools: the status, the finalizer and the defaults of the spec.

use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{client::Store, error::StoreError};
use crate::{
    ippool::{FINALIZER, IpPoolStatus, SpiderIPPool},
    reserved::SpiderReservedIP,
};

impl Store {
    /// Returns all pools, as the API server has them now.
    pub async fn pools(&self) -> Result<Vec<SpiderIPPool>, StoreError> {
        let pools = self.all::<SpiderIPPool>().list(&ListParams::default()).await;
        pools.map(|list| list.items).map_err(|error| StoreError::new("list", "the pools", error))
    }

    /// Returns all reserved addresses, as the API server has them now.
    pub async fn reserved(&self) -> Result<Vec<SpiderReservedIP>, StoreError> {
        let reserved = self.all::<SpiderReservedIP>().list(&ListParams::default()).await;
        reserved.map(|list| list.items).map_err(|error| StoreError::new("list", "the reserved addresses", error))
    }

    /// Writes a pool's status. Fails with a conflict where the pool changed since it was read: the status may be outdated,
    /// or written by another controller. A pool that is gone needs none.
    pub async fn write_pool_status(&self, pool: &SpiderIPPool, status: &IpPoolStatus) -> Result<(), StoreError> {
        let (name, what) = (pool.name_any(), || format!("pool {}", pool.name_any()));
        self.check_gate(|| format!("the status of {}", what()))?;
        // Absent fields are written as null: a merge patch keeps the fields that it does not name.
        let patch = json!({"metadata": {"resourceVersion": pool.resource_version()}, "status": {
            "allocatedIPs": status.allocated_ips,
            "totalIPCount": status.total_ip_count,
            "allocatedIPCount": status.allocated_ip_count,
            "conditions": status.conditions,
        }});
        let written =
            self.all::<SpiderIPPool>().patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        ignore_not_found(written.map(drop)).map_err(|error| StoreError::new("update the status of", what(), error))
    }

    /// Adds the finalizer to a pool, or removes it. Fails with a conflict where the pool changed since it was read.
    pub async fn set_finalizer(&self, pool: &SpiderIPPool, held: bool) -> Result<(), StoreError> {
        let mut finalizers = pool.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if held {
            finalizers.push(FINALIZER.to_owned());
        }
        self.patch_pool(pool, json!({"metadata": {"finalizers": finalizers}})).await
    }

    /// Writes `spec.ipVersion` of a pool that has none. Fails with a conflict where the pool changed since it was read: its
    /// subnet may be another one.
    pub async fn set_pool_version(&self, pool: &SpiderIPPool, version: u8) -> Result<(), StoreError> {
        self.patch_pool(pool, json!({"spec": {"ipVersion": version}})).await
    }

    async fn patch_pool(&self, pool: &SpiderIPPool, mut patch: Value) -> Result<(), StoreError> {
        let name = pool.name_any();
        self.check_gate(|| format!("pool {name}"))?;
        patch["metadata"]["resourceVersion"] = json!(pool.resource_version());
        let written = self.all::<SpiderIPPool>().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        ignore_not_found(written.map(drop)).map_err(|error| StoreError::new("update", format!("pool {name}"), error))
    }
}

fn ignore_not_found(written: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(gone)) if gone.code == 404 => Ok(()),
        other => other,
    }
}
