//! Endpoints: one write names the holder.

use std::net::IpAddr;

use holdfast_core::id::PodName;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};

use super::{ATTEMPTS, Store, StoreError};
use crate::{endpoint::SpiderEndpoint, labels::label_value};

impl Store {
    /// The endpoint of a pod.
    pub async fn endpoint(&self, pod: &PodName) -> Result<Option<SpiderEndpoint>, StoreError> {
        let read = self.endpoints(&pod.namespace).get_opt(&pod.name).await;
        read.map_err(|error| StoreError::new("read", format!("endpoint {pod}"), error))
    }

    /// The endpoints that carry a label for `name`: its [`label_value`].
    pub async fn endpoints_labelled(&self, label: &str, name: &str) -> Result<Vec<SpiderEndpoint>, StoreError> {
        let api: Api<SpiderEndpoint> = Api::all(self.client.clone());
        let list = api.list(&ListParams::default().labels(&format!("{label}={}", label_value(name)))).await;
        list.map(|list| list.items)
            .map_err(|error| StoreError::new("list", format!("endpoints with {label}={name}"), error))
    }

    /// Creates an endpoint that was not read, replaces one that was.
    pub async fn write_endpoint(&self, endpoint: &SpiderEndpoint) -> Result<SpiderEndpoint, StoreError> {
        let pod = endpoint.pod();
        let api = self.endpoints(&pod.namespace);
        let what = || format!("endpoint {pod}");
        self.check_gate(what)?;
        if endpoint.resource_version().is_none() {
            let created = api.create(&PostParams::default(), endpoint).await;
            return created.map_err(|error| StoreError::new("create", what(), error));
        }
        match api.replace(&pod.name, &PostParams::default(), endpoint).await {
            Ok(written) => Ok(written),
            // Deleted since it was read: somebody else came first, as with any other change.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(StoreError::Conflict { what: what() }),
            Err(error) => Err(StoreError::new("update", what(), error)),
        }
    }

    /// Reads an endpoint, lets `change` edit it and writes it back, again as long as somebody else comes first.
    /// `change` answers whether there is anything to write. Returns what was written.
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

    /// Deletes an endpoint as it was read and marks the claims of its addresses. Answers false, having done nothing,
    /// where the endpoint changed since.
    pub async fn release_endpoint(&self, endpoint: &SpiderEndpoint) -> Result<bool, StoreError> {
        if !self.delete_endpoint(endpoint).await? {
            return Ok(false);
        }
        self.release_addresses(&endpoint.pod(), &endpoint.addresses()).await?;
        Ok(true)
    }

    /// Deletes an endpoint as it was read, and only so. Its claims are left for [`Self::release_addresses`].
    pub async fn delete_endpoint(&self, endpoint: &SpiderEndpoint) -> Result<bool, StoreError> {
        let pod = endpoint.pod();
        self.check_gate(|| format!("endpoint {pod}"))?;
        let preconditions = Preconditions { uid: endpoint.uid(), resource_version: endpoint.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.endpoints(&pod.namespace).delete(&pod.name, &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
            Err(error) => Err(StoreError::new("delete", format!("endpoint {pod}"), error)),
        }
    }

    /// Marks the claims of addresses that `pod`'s endpoint lists no more.
    pub async fn release_addresses(&self, pod: &PodName, addresses: &[IpAddr]) -> Result<(), StoreError> {
        futures::future::try_join_all(addresses.iter().map(|address| self.mark_released(*address, pod))).await?;
        Ok(())
    }
}
