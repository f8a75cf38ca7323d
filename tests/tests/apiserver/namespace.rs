//! Namespaces on their way out.

use anyhow::Result;
use holdfast_api::endpoint::SpiderEndpoint;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use crate::world::{SOON, pod_on, wait};

/// A namespace whose deletion takes its time. Nobody empties it here but the test.
pub(crate) struct Going {
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl Going {
    /// `namespace/name`.
    pub(crate) fn of(&self, pod: &str) -> String {
        format!("{}/{pod}", self.name)
    }

    pub(crate) async fn pod(&self, name: &str, node: &str) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        Ok(pods.create(&PostParams::default(), &pod_on(name, node)?).await?)
    }

    /// From here on it takes no new objects.
    pub(crate) async fn delete(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        let look = || async {
            let phase = namespaces.get(&self.name).await?.status.and_then(|status| status.phase);
            Ok((phase.as_deref() == Some("Terminating"), phase))
        };
        wait("the namespace to be going", SOON, look).await?;
        Ok(())
    }

    /// Its objects go, as its controller would have it: kind after kind, in no order that anybody promises.
    pub(crate) async fn end(&self) -> Result<()> {
        let (now, all) =
            (DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }, ListParams::default());
        let (client, name) = (|| self.client.clone(), &self.name);
        drop(Api::<SpiderEndpoint>::namespaced(client(), name).delete_collection(&now, &all).await?);
        drop(Api::<StatefulSet>::namespaced(client(), name).delete_collection(&now, &all).await?);
        drop(Api::<Pod>::namespaced(client(), name).delete_collection(&now, &all).await?);
        let namespaces: Api<Namespace> = Api::all(client());
        let mut namespace = namespaces.get(name).await?;
        namespace.spec.get_or_insert_default().finalizers = None;
        namespaces.replace_subresource("finalize", name, &PostParams::default(), &namespace).await?;
        Ok(())
    }
}
