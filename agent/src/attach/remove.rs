//! DEL and GC, and what a failed ADD leaves. Teardown collects errors and goes on.

use std::{collections::HashSet, time::Instant};

use holdfast_cni::{CniError, Invocation, Plugin, code};
use holdfast_core::id::{ContainerId, IfName, PodName};

use super::{Attach, AttachError, call::Call};
use crate::ipam::Unbound;

impl Attach {
    /// Takes a container's interface and addresses away. What is not there is taken away already.
    pub async fn del(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let Some((container, interface, pod)) = Call::of_del(invocation) else { return Ok(()) };
        let pod_or_nobody = pod.clone().unwrap_or_else(|| PodName::new("", container.as_str()));
        let _turn = self.locks.turn(&pod_or_nobody).await;
        let removal = async {
            match invocation.plugin {
                Plugin::Holdfast => self.remove_link(&container, &interface).await?,
                Plugin::Spiderpool => self.unguard(&container, &interface)?,
            }
            match &pod {
                Some(pod) => self.remove_record(pod, &container, &interface, "SandboxDeleted").await,
                None => Ok(()),
            }
        };
        let outcome = tokio::time::timeout_at(deadline.into(), removal).await.unwrap_or(Err(AttachError::Deadline));
        outcome.map_err(|error| {
            tracing::warn!(pod = %pod_or_nobody, %error, "DEL failed; the runtime tries again");
            error.for_runtime(&pod_or_nobody)
        })
    }

    /// What a failed ADD left goes, in reverse. What cannot be undone is logged: the runtime's DEL and the controller
    /// come after.
    pub(super) async fn undo(&self, call: &Call, why: &AttachError) {
        if let Err(error) = self.remove_link(&call.container, &call.interface).await {
            tracing::warn!(pod = %call.pod, %error, "the link of a failed ADD was not removed");
        }
        // An ADD that the records refused wrote nothing; the API server need not be asked again.
        if matches!(why, AttachError::Ipam(_) | AttachError::Request(_)) {
            return;
        }
        if let Err(error) = self.remove_record(&call.pod, &call.container, &call.interface, "AddFailed").await {
            tracing::warn!(pod = %call.pod, %error, "the record of a failed ADD was not taken back");
        }
    }

    pub(super) async fn remove_link(&self, container: &ContainerId, interface: &IfName) -> Result<(), AttachError> {
        let name = container.host_link(interface);
        let unguarded = self.unguard(container, &name);
        self.network.delete(&name).await?;
        unguarded
    }

    async fn remove_record(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
        reason: &str,
    ) -> Result<(), AttachError> {
        match self.ipam.unbind(pod, container, interface, reason).await? {
            Unbound::Nothing => tracing::debug!(%pod, %container, "holds nothing (any more)"),
            Unbound::Reserved => tracing::info!(%pod, %container, reason, "unbound; its addresses stay reserved"),
            Unbound::Released(addresses) => {
                tracing::info!(%pod, %container, reason, ?addresses, "released");
                let (ipam, pod) = (self.ipam.clone(), pod.clone());
                self.background.spawn(async move { ipam.release(&pod, &addresses).await });
            }
        }
        Ok(())
    }

    /// Removes what belongs to no valid attachment. The runtime's list is of one network and there may be several, so a
    /// container that is missing in it is not proof enough: its pod has to be gone, or to have a newer sandbox.
    pub async fn gc(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let conf = invocation.net_conf()?;
        let Some(valid) = conf.valid_attachments else {
            let msg = "GC needs cni.dev/valid-attachments in the network configuration";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        let valid: HashSet<_> = valid.into_iter().map(|attachment| attachment.container_id).collect();
        let collection = async {
            for link in self.network.links().await? {
                let Some(pod) = link.pod.filter(|_| !valid.contains(link.container.as_str())) else { continue };
                let _turn = self.locks.turn(&pod).await;
                if !self.ipam.is_live(&pod, &link.container).await? {
                    self.remove_link(&link.container, &link.ifname).await?;
                    self.remove_record(&pod, &link.container, &link.ifname, "RuntimeGc").await?;
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout_at(deadline.into(), collection).await.unwrap_or(Err(AttachError::Deadline));
        outcome.map_err(|error| error.for_runtime(&PodName::new("", "GC")))
    }
}
