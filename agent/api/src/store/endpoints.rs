//! Writes of endpoints: one write names the holder.

use std::net::IpAddr;

use holdfast_core::id::PodName;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};

use super::{
    client::{ATTEMPTS, Store},
    error::StoreError,
};
use crate::{endpoint::SpiderEndpoint, labels::label_value};

impl Store {
    /// Returns the endpoint of a pod.
    pub async fn endpoint(&self, pod: &PodName) -> Result<Option<SpiderEndpoint>, StoreError> {
        let read = self.namespaced::<SpiderEndpoint>(&pod.namespace).get_opt(&pod.name).await;
        read.map_err(|error| StoreError::new("read", format!("endpoint {pod}"), error))
    }

    /// Returns the endpoints whose label `label` stands for `name`: its value is [`label_value`] of it.
    pub async fn endpoints_labelled(&self, label: &str, name: &str) -> Result<Vec<SpiderEndpoint>, StoreError> {
        let list = self
            .all::<SpiderEndpoint>()
            .list(&ListParams::default().labels(&format!("{label}={}", label_value(name))))
            .await;
        list.map(|list| list.items)
            .map_err(|error| StoreError::new("list", format!("endpoints with {label}={name}"), error))
    }

    /// Creates an endpoint that has no resourceVersion, replaces one that has. Returns what was written.
    pub async fn write_endpoint(&self, endpoint: &SpiderEndpoint) -> Result<SpiderEndpoint, StoreError> {
        let pod = endpoint.pod();
        let api = self.namespaced::<SpiderEndpoint>(&pod.namespace);
        let what = || format!("endpoint {pod}");
        self.check_gate(what)?;
        if endpoint.resource_version().is_none() {
            let created = api.create(&PostParams::default(), endpoint).await;
            return created.map_err(|error| StoreError::new("create", what(), error));
        }
        let replaced = api.replace(&pod.name, &PostParams::default(), endpoint).await;
        replaced.map_err(|error| StoreError::of_replace(what(), error))
    }

    /// Reads an endpoint, lets `change` edit it and writes it; on a conflict again, up to five times. `change` returns
    /// false where there is nothing to write. Returns the endpoint that was written.
    pub async fn edit_endpoint(
        &self,
        pod: &PodName,
        mut change: impl FnMut(&mut SpiderEndpoint) -> bool,
    ) -> Result<Option<SpiderEndpoint>, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(mut endpoint) = self.endpoint(pod).await? else { return Ok(None) };
            if !change(&mut endpoint) {
                return Ok(None);
            }
            match self.write_endpoint(&endpoint).await {
                Err(error) if error.is_conflict() => {}
                written => return written.map(Some),
            }
        }
        Err(StoreError::Conflict { what: format!("endpoint {pod}") })
    }

    /// Deletes an endpoint at the version that was read. Returns false, having done nothing, where it changed since. Its
    /// claims are left to [`Self::release_addresses`].
    pub async fn delete_endpoint(&self, endpoint: &SpiderEndpoint) -> Result<bool, StoreError> {
        let pod = endpoint.pod();
        self.check_gate(|| format!("endpoint {pod}"))?;
        let preconditions = Preconditions { uid: endpoint.uid(), resource_version: endpoint.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.namespaced::<SpiderEndpoint>(&pod.namespace).delete(&pod.name, &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
            Err(error) => Err(StoreError::new("delete", format!("endpoint {pod}"), error)),
        }
    }

    /// Marks the claims of addresses that `pod`'s endpoint no longer lists as released.
    pub async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]) -> Result<(), StoreError> {
        futures::future::try_join_all(addresses.iter().map(|address| self.mark_released(*address, pod))).await?;
        Ok(())
    }
}
