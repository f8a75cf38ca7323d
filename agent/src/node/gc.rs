//! GC: what belongs to no valid attachment is removed as a DEL would.

use std::collections::HashSet;

use holdfast_cni::{CniError, Invocation, Plugin, code};
use holdfast_core::id::PodName;
use tokio::time::{Instant, timeout_at};

use super::{attachment::Attachment, attachments::Attachments, error::NodeError, sandbox::SandboxState};

impl Attachments {
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
        let outcome = timeout_at(deadline, collection).await.unwrap_or(Err(NodeError::Deadline));
        outcome.map_err(|error| error.for_runtime(&PodName::new("", "GC")))
    }

    /// Returns the attachments that this plugin's DEL would remove.
    async fn attachments_of(&self, plugin: Plugin) -> Result<Vec<Attachment>, NodeError> {
        Ok(match plugin {
            Plugin::Holdfast => {
                self.backends.links.links().await?.into_iter().filter_map(Attachment::of_link).collect()
            }
            Plugin::Spiderpool => {
                let inside = self.backends.guard.links()?.into_iter().filter(|link| link.inside);
                inside.filter_map(|link| self.driver.attachments.get(link.link)).collect()
            }
        })
    }

    async fn collect_garbage(&self, attachment: &Attachment, plugin: Plugin) -> Result<(), NodeError> {
        let Attachment { pod, container, interface } = attachment;
        let _lock = self.driver.locks.lock(pod).await;
        if self.driver.sandboxes.state(container).await == SandboxState::Alive
            || self.backends.records.is_live_holder(pod, container).await?
        {
            return Ok(());
        }
        match plugin {
            Plugin::Holdfast => self.driver.remove_link(container, interface).await?,
            Plugin::Spiderpool => self.driver.release_pod_interface(container, interface, None)?,
        }
        self.unbind(pod, container, interface, "RuntimeGc").await
    }
}
