//! DEL and GC, and what a failed ADD leaves. Teardown collects errors and goes on.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_cni::{CniError, Invocation, Plugin, code};
use holdfast_core::id::{ContainerId, IfName, PodName};
use holdfast_guard::Link;
use holdfast_ipam::{UnbindOutcome, UnbindRequest};

use super::{Attach, NodeError, cni_request::CniRequest, driver::Attachment};
use crate::node::sandbox::SandboxState;

/// How long another plugin may take from our DEL, which comes first, to the end of its interface.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

impl Attach {
    /// Takes a container's interface and addresses away. What is not there is taken away already.
    pub async fn del(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let Some((container, interface, pod)) = CniRequest::for_del(invocation) else { return Ok(()) };
        let pod_or_nobody = pod.clone().unwrap_or_else(|| PodName::new("", container.as_str()));
        let removal = async {
            let _lock = self.locks.lock(&pod_or_nobody).await;
            let interface_gone = match invocation.plugin {
                Plugin::Holdfast => self.remove_link(&container, &interface).await,
                Plugin::Spiderpool => self.release_pod_interface(&container, &interface, invocation.netns.as_deref()),
            };
            let record_gone = match &pod {
                Some(pod) => self.remove_record(pod, &container, &interface, "SandboxDeleted").await,
                None => Ok(()),
            };
            interface_gone.and(record_gone)
        };
        let outcome = tokio::time::timeout_at(deadline.into(), removal).await.unwrap_or(Err(NodeError::Deadline));
        outcome.map_err(|error| {
            tracing::warn!(pod = %pod_or_nobody, %error, "DEL failed; the runtime tries again");
            error.for_runtime(&pod_or_nobody)
        })
    }

    /// What a failed ADD left goes, in reverse. What cannot be undone is logged: the runtime's DEL and the controller
    /// come after.
    pub(super) async fn undo(&self, request: &CniRequest, plugin: Plugin, why: &NodeError) {
        let removed = match plugin {
            Plugin::Holdfast => self.remove_link(&request.container, &request.interface).await,
            Plugin::Spiderpool => self.release_pod_interface(&request.container, &request.interface, None),
        };
        if let Err(error) = removed {
            tracing::warn!(pod = %request.pod, %error, "the interface of a failed ADD was not removed");
        }
        // An ADD that failed in the records has taken back what it wrote there.
        if matches!(why, NodeError::Ipam(_) | NodeError::Request(_)) {
            return;
        }
        if let Err(error) = self.remove_record(&request.pod, &request.container, &request.interface, "AddFailed").await
        {
            tracing::warn!(pod = %request.pod, %error, "the record of a failed ADD was not taken back");
        }
    }

    /// Removes a link of ours. It is silent from the first moment on, and the guard goes only after it: the kernel takes
    /// some 20 ms to remove an interface, in which a container that still runs can send.
    pub(super) async fn remove_link(&self, container: &ContainerId, interface: &IfName) -> Result<(), NodeError> {
        let name = container.host_link(interface);
        let fenced = self.fence(container, interface);
        let deleted = self.network.delete(&name).await;
        let links = fenced?;
        deleted?;
        let attach = self.clone();
        self.background.spawn(async move {
            if let Err(error) = attach.network.wait_deleted(&name).await {
                tracing::debug!(link = %name, %error, "the end of a link was not waited for");
            }
            attach.forget(&links);
        });
        Ok(())
    }

    /// The interface inside the pod is another plugin's to remove. Until it is gone the guard keeps it silent.
    fn release_pod_interface(
        &self,
        container: &ContainerId,
        interface: &IfName,
        netns: Option<&str>,
    ) -> Result<(), NodeError> {
        let links = self.fence(container, interface)?;
        if links.is_empty() {
            return Ok(());
        }
        let (attach, interface, netns) = (self.clone(), interface.clone(), netns.map(PathBuf::from));
        self.background.spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE
                && !attach.stop.is_cancelled()
                && netns.as_deref().is_some_and(|netns| is_there(netns, &interface))
            {
                tokio::time::sleep(PAUSE).await;
            }
            attach.forget(&links);
        });
        Ok(())
    }

    fn forget(&self, links: &[Link]) {
        for link in links {
            if let Err(error) = self.detach(link) {
                tracing::warn!(link = %link.name, %error, "a link's guard was not removed; the next comparison does");
            }
        }
    }

    pub(super) async fn remove_record(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
        reason: &str,
    ) -> Result<(), NodeError> {
        let has_other_interfaces = self.has_others(container, interface)?;
        match self.ipam.unbind(&UnbindRequest { pod, container, interface, has_other_interfaces, reason }).await? {
            UnbindOutcome::Nothing => tracing::debug!(%pod, %container, "holds nothing (any more)"),
            UnbindOutcome::Reserved => tracing::info!(%pod, %container, reason, "unbound; its addresses stay reserved"),
            UnbindOutcome::Released(addresses) => {
                tracing::info!(%pod, %container, reason, ?addresses, "released");
                let (ipam, pod) = (self.ipam.clone(), pod.clone());
                self.background.spawn(async move { ipam.release_addresses(&pod, &addresses).await });
            }
        }
        Ok(())
    }

    /// Removes what belongs to no valid attachment. The runtime's list is of one network and there may be several, so a
    /// container that is missing in it is not proof enough: its sandbox has to be gone, or its pod to have a newer one.
    pub async fn gc(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let conf = invocation.net_conf()?;
        let Some(valid) = conf.valid_attachments else {
            let msg = "GC needs cni.dev/valid-attachments in the network configuration";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        let valid: HashSet<_> =
            valid.into_iter().map(|attachment| (attachment.container_id, attachment.ifname)).collect();
        let collection = async {
            let mut outcome = Ok(());
            for attachment in self.attachments_of(invocation.plugin).await? {
                let key = (attachment.container.to_string(), attachment.interface.to_string());
                if !valid.contains(&key) {
                    outcome = outcome.and(self.collect_garbage(&attachment, invocation.plugin).await);
                }
            }
            outcome
        };
        let outcome = tokio::time::timeout_at(deadline.into(), collection).await.unwrap_or(Err(NodeError::Deadline));
        outcome.map_err(|error| error.for_runtime(&PodName::new("", "GC")))
    }

    /// Who has interfaces that this plugin's DEL would remove.
    async fn attachments_of(&self, plugin: Plugin) -> Result<Vec<Attachment>, NodeError> {
        Ok(match plugin {
            Plugin::Holdfast => self.network.links().await?.into_iter().filter_map(Attachment::of).collect(),
            Plugin::Spiderpool => {
                let inside = self.datapath.links()?.into_iter().filter(|link| link.inside);
                let attachments = self.attachments();
                inside.filter_map(|link| attachments.get(&link.link).cloned()).collect()
            }
        })
    }

    async fn collect_garbage(&self, attachment: &Attachment, plugin: Plugin) -> Result<(), NodeError> {
        let Attachment { pod, container, interface } = attachment;
        let _lock = self.locks.lock(pod).await;
        if self.sandboxes.state(container) == SandboxState::Alive || self.ipam.is_live_holder(pod, container).await? {
            return Ok(());
        }
        match plugin {
            Plugin::Holdfast => self.remove_link(container, interface).await?,
            Plugin::Spiderpool => self.release_pod_interface(container, interface, None)?,
        }
        self.remove_record(pod, container, interface, "RuntimeGc").await
    }
}

/// Whether an interface is (still) in a namespace.
fn is_there(netns: &Path, interface: &IfName) -> bool {
    Attach::interface_in(netns, interface).is_ok_and(|mac| mac.is_some())
}
