//! One request of the plugin, checked before anything is changed.

use std::path::PathBuf;

use holdfast_cni::{CniError, Invocation, NetConf, code};
use holdfast_core::id::{ContainerId, IfName, PodName};
use holdfast_ipam::BindRequest;
use holdfast_net::LinkSpec;

use super::attachment::Attachment;

/// The validated parameters of an ADD or a CHECK.
#[derive(Debug, Clone)]
pub(super) struct CniRequest {
    pub(super) container: ContainerId,
    pub(super) interface: IfName,
    pub(super) pod: PodName,
    uid: Option<String>,
    netns: Option<PathBuf>,
    pub(super) conf: NetConf,
}

fn environment(msg: String) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}

impl CniRequest {
    /// Parses an ADD or a CHECK, which have to name everything.
    pub(super) fn for_add(invocation: &Invocation) -> Result<Self, CniError> {
        let ifname = invocation.ifname.as_deref().unwrap_or_default();
        let args = invocation.k8s_args()?;
        let (Some(namespace), Some(name)) = (args.namespace, args.name) else {
            let msg = "CNI_ARGS names no K8S_POD_NAMESPACE and K8S_POD_NAME: holdfast gives addresses to Kubernetes pods only";
            return Err(environment(msg.to_owned()));
        };
        Ok(Self {
            container: parse(&invocation.container_id, "CNI_CONTAINERID")?,
            interface: parse(ifname, "CNI_IFNAME")?,
            pod: PodName::new(namespace, name),
            uid: args.uid,
            netns: invocation.netns.as_deref().map(PathBuf::from),
            conf: invocation.net_conf()?,
        })
    }

    /// Returns the container, the interface and the pod of a DEL. None: the request names too little to have anything
    /// to remove, which a DEL takes as done.
    pub(super) fn for_del(invocation: &Invocation) -> Option<(ContainerId, IfName, Option<PodName>)> {
        let container = invocation.container_id.parse().ok()?;
        let interface = invocation.ifname.as_deref()?.parse().ok()?;
        let args = invocation.k8s_args().ok();
        let pod = args.and_then(|args| Some(PodName::new(args.namespace?, args.name?)));
        Some((container, interface, pod))
    }

    pub(super) fn netns(&self) -> Result<PathBuf, CniError> {
        self.netns.clone().ok_or_else(|| environment("CNI_NETNS is missing".to_owned()))
    }

    /// Returns the link that the container is to have.
    pub(super) fn link(&self) -> Result<LinkSpec, CniError> {
        Ok(LinkSpec {
            container: self.container.clone(),
            pod: self.pod.clone(),
            netns: self.netns()?,
            ifname: self.interface.clone(),
            mtu: self.conf.mtu,
        })
    }

    /// Returns the attachment that the request is about.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment { pod: self.pod.clone(), container: self.container.clone(), interface: self.interface.clone() }
    }

    /// Returns the request for addresses.
    pub(super) fn bind_request(&self) -> BindRequest<'_> {
        BindRequest {
            pod: self.pod.clone(),
            uid: self.uid.clone(),
            container: self.container.clone(),
            interface: self.interface.clone(),
            conf: &self.conf,
        }
    }
}

fn parse<T: std::str::FromStr>(text: &str, variable: &str) -> Result<T, CniError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| environment(format!("{variable}: {error}")))
}

#[cfg(test)]
mod tests {
    use holdfast_cni::Plugin;
    use serde_json::json;

    use super::*;

    fn invocation() -> Invocation {
        Invocation {
            container_id: "c1".into(),
            netns: Some("/run/netns/a".into()),
            ifname: Some("eth0".into()),
            args: Some("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u".into()),
            path: None,
            plugin: Plugin::Holdfast,
            config: json!({"cniVersion": "1.0.0", "name": "lan", "type": "holdfast"}),
        }
    }

    #[test]
    fn an_add_has_to_name_everything() {
        let request = CniRequest::for_add(&invocation()).unwrap();
        assert_eq!((request.pod.to_string().as_str(), request.uid.as_deref()), ("default/web-0", Some("u")));
        let broken: [fn(&mut Invocation); 4] = [
            |invocation| invocation.container_id = "../x".into(),
            |invocation| invocation.ifname = None,
            |invocation| invocation.args = None,
            |invocation| invocation.config = json!([]),
        ];
        for break_it in broken {
            let mut invocation = invocation();
            break_it(&mut invocation);
            assert!(CniRequest::for_add(&invocation).is_err());
        }
    }

    #[test]
    fn a_del_that_names_too_little_has_nothing_to_do() {
        assert!(CniRequest::for_del(&invocation()).is_some());
        assert!(CniRequest::for_del(&Invocation { container_id: String::new(), ..invocation() }).is_none());
        let (_, _, pod) = CniRequest::for_del(&Invocation { args: None, ..invocation() }).unwrap();
        assert_eq!(pod, None);
    }
}
