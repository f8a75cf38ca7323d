//! Reads of the cluster's own objects: pods, `StatefulSets`, namespaces and nodes.

use std::fmt::Debug;

use holdfast_core::id::PodName;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Node, Pod},
};
use kube::{Api, Resource, api::ListParams};
use serde::de::DeserializeOwned;

use super::{client::Store, error::StoreError};

impl Store {
    /// Returns the pod, as the API server has it now.
    pub async fn pod(&self, pod: &PodName) -> Result<Option<Pod>, StoreError> {
        get(&self.namespaced(&pod.namespace), &pod.name, || format!("pod {pod}")).await
    }

    /// Returns the StatefulSet, as the API server has it now.
    pub async fn stateful_set(&self, set: &PodName) -> Result<Option<StatefulSet>, StoreError> {
        get(&self.namespaced(&set.namespace), &set.name, || format!("StatefulSet {set}")).await
    }

    /// Returns the namespace, as the API server has it now.
    pub async fn namespace(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        get(&self.all(), name, || format!("namespace {name}")).await
    }

    /// Returns the node, as the API server has it now.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, StoreError> {
        get(&self.all(), name, || format!("node {name}")).await
    }

    /// Returns the pods of a node from the API server's watch cache: as cheap and as recent as a watch.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<Pod>, StoreError> {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}")).match_any();
        let list = self.all::<Pod>().list(&params).await;
        list.map(|list| list.items).map_err(|error| StoreError::new("list", format!("the pods of node {node}"), error))
    }
}

async fn get<K>(api: &Api<K>, name: &str, what: impl FnOnce() -> String) -> Result<Option<K>, StoreError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    api.get_opt(name).await.map_err(|error| StoreError::new("read", what(), error))
}
