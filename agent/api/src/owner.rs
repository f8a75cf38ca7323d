//! The owner of a pod: whether its addresses outlive it, and whose they are.

use k8s_openapi::api::core::v1::Pod;

use crate::endpoint::{EndpointStatus, STATEFUL_SET};

/// Who a pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `StatefulSet`, `Deployment`, …; `Pod` where there is none.
    pub kind: String,
    /// The owner's name; the pod's own where there is none.
    pub name: String,
    /// The owner's UID. A Deployment's is not known: its pods belong to a ReplicaSet.
    pub uid: Option<String>,
}

impl Owner {
    /// Reads the controlling owner reference. A ReplicaSet's name is its Deployment's and the pod template's hash,
    /// which the pod carries as a label: no further read is needed to name the Deployment.
    pub fn of(pod: &Pod) -> Self {
        let references = pod.metadata.owner_references.iter().flatten();
        let Some(reference) = references.into_iter().find(|reference| reference.controller == Some(true)) else {
            let name = pod.metadata.name.clone().unwrap_or_default();
            return Self { kind: "Pod".to_owned(), name, uid: pod.metadata.uid.clone() };
        };
        let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
        let deployment = hash.and_then(|hash| reference.name.strip_suffix(hash)?.strip_suffix('-'));
        if reference.kind == "ReplicaSet"
            && let Some(deployment) = deployment
        {
            return Self { kind: "Deployment".to_owned(), name: deployment.to_owned(), uid: None };
        }
        Self { kind: reference.kind.clone(), name: reference.name.clone(), uid: Some(reference.uid.clone()) }
    }

    /// Whether the pod keeps its addresses.
    pub fn is_stateful_set(&self) -> bool {
        self.kind == STATEFUL_SET
    }

    /// Whether an endpoint's record is this owner's: the same StatefulSet by UID. A record from before UIDs were
    /// written is taken by its name.
    pub fn owns(&self, record: &EndpointStatus) -> bool {
        let same_name = record.owner_controller_type == self.kind && record.owner_controller_name == self.name;
        same_name && record.owner_controller_uid.as_ref().is_none_or(|uid| self.uid.as_ref() == Some(uid))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn pod(kind: &str, name: &str, hash: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.owner_references = Some(vec![OwnerReference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: "u".to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
        pod.metadata.labels = hash.map(|hash| [("pod-template-hash".to_owned(), hash.to_owned())].into());
        pod
    }

    #[test]
    fn owners_are_named() {
        let set = Owner::of(&pod("StatefulSet", "web", None));
        assert!(set.is_stateful_set());
        assert_eq!((set.name.as_str(), set.uid.as_deref()), ("web", Some("u")));
        let deployment = Owner::of(&pod("ReplicaSet", "web-app-6d4cf56db6", Some("6d4cf56db6")));
        assert_eq!((deployment.kind.as_str(), deployment.name.as_str()), ("Deployment", "web-app"));
        assert_eq!(Owner::of(&pod("ReplicaSet", "web", None)).kind, "ReplicaSet");
        assert_eq!(Owner::of(&Pod::default()).kind, "Pod");
    }

    #[test]
    fn a_new_set_under_the_old_name_owns_nothing() {
        let owner = Owner::of(&pod("StatefulSet", "web", None));
        let mut record = EndpointStatus {
            owner_controller_type: "StatefulSet".into(),
            owner_controller_name: "web".into(),
            ..EndpointStatus::default()
        };
        assert!(owner.owns(&record));
        record.owner_controller_uid = Some("u".into());
        assert!(owner.owns(&record));
        record.owner_controller_uid = Some("old".into());
        assert!(!owner.owns(&record));
    }
}
