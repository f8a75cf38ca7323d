//! The lease that the leading controller holds.

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, ResourceExt, api::PostParams};

use super::error::StoreError;

/// One lease object. Its writes pass no gate: holding it is what opens the gate.
#[derive(Clone)]
pub struct Leases {
    api: Api<Lease>,
    namespace: String,
    name: String,
}

impl Leases {
    /// Returns the lease `namespace/name`.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn what(&self) -> String {
        format!("lease {}/{}", self.namespace, self.name)
    }

    /// Returns the lease, as the API server has it now.
    pub async fn read(&self) -> Result<Option<Lease>, StoreError> {
        self.api.get_opt(&self.name).await.map_err(|error| StoreError::new("read", self.what(), error))
    }

    /// Writes `holder` into the lease at the version that was read, or creates it; an empty holder releases it. Fails with
    /// a conflict where another candidate wrote first.
    pub async fn write(&self, read: Option<&Lease>, holder: &str, seconds: i32) -> Result<Lease, StoreError> {
        let now = Some(MicroTime(Timestamp::now()));
        let mut lease = read.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        lease.metadata.managed_fields = None;
        let before = lease.spec.take().unwrap_or_default();
        let same = before.holder_identity.as_deref() == Some(holder);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            acquire_time: if same { before.acquire_time.clone() } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!same && !holder.is_empty())),
            ..before
        });
        match lease.resource_version() {
            None => self.api.create(&PostParams::default(), &lease).await,
            Some(_) => self.api.replace(&self.name, &PostParams::default(), &lease).await,
        }
        .map_err(|error| StoreError::new("write", self.what(), error))
    }
}
