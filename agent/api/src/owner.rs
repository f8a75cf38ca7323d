//! The owner of a pod, which decides whether the pod's addresses outlive it.

use k8s_openapi::api::core::v1::Pod;

use crate::endpoint::{EndpointStatus, STATEFUL_SET};

/// The owner of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `StatefulSet`, `Deployment`, …; `Pod` for a pod without an owner.
    pub kind: String,
    /// The owner's name; the pod's own for a pod without an owner.
    pub name: String,
    /// The owner's UID. None for a Deployment: its pods name their ReplicaSet.
    pub uid: Option<String>,
}

impl Owner {
    /// Returns the owner that the controlling owner reference names. A ReplicaSet's name is its Deployment's and the pod
    /// template's hash, which is a label of the pod: the Deployment's name needs no further read.
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

    /// Returns true where the addresses outlive the pod.
    pub fn is_stateful_set(&self) -> bool {
        self.kind == STATEFUL_SET
    }

    /// Returns true where an endpoint's record names this owner, by UID. A record without a UID, which older versions
    /// wrote, is matched by kind and name.
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
    fn owners_are_named_by_the_controlling_reference() {
        let set = Owner::of(&pod("StatefulSet", "web", None));
        assert!(set.is_stateful_set());
        assert_eq!((set.name.as_str(), set.uid.as_deref()), ("web", Some("u")));
        let deployment = Owner::of(&pod("ReplicaSet", "web-app-6d4cf56db6", Some("6d4cf56db6")));
        assert_eq!((deployment.kind.as_str(), deployment.name.as_str()), ("Deployment", "web-app"));
        assert_eq!(Owner::of(&pod("ReplicaSet", "web", None)).kind, "ReplicaSet");
        assert_eq!(Owner::of(&Pod::default()).kind, "Pod");
    }

    #[test]
    fn a_new_set_of_the_same_name_does_not_own_the_record() {
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
