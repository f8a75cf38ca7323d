//! DEL: the guard silences the interface, link and record go, and then the guard's own state.
//!
//! ```text
//! guard: fence ─▶ proxies, routes, link ─▶ records: unbind ─▶ reply ─▶ guard: detach, claims: release
//! ```
//!
//! It collects errors and goes on: a record is unbound even if the interface could not be removed. The runtime tries a
//! failed DEL again.

use holdfast_cni::{CniError, Invocation, Plugin};
use holdfast_core::id::{ContainerId, IfName, PodName};
use holdfast_ipam::{UnbindOutcome, UnbindRequest};
use tokio::time::{Instant, timeout_at};

use super::{attachments::Attachments, cni_request::CniRequest, error::NodeError};

impl Attachments {
    /// Takes a container's interface and addresses away. What is not there is taken away already.
    pub async fn del(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let Some((container, interface, pod)) = CniRequest::for_del(invocation) else { return Ok(()) };
        // Without a pod's name there is no record to find, and the container's verbs are serialised by its own.
        let lock_name = pod.clone().unwrap_or_else(|| PodName::new("", container.as_str()));
        let removal = async {
            let _lock = self.driver.locks.lock(&lock_name).await;
            let interface_gone = match invocation.plugin {
                Plugin::Holdfast => self.driver.remove_link(&container, &interface).await,
                Plugin::Spiderpool => {
                    self.driver.release_pod_interface(&container, &interface, invocation.netns.as_deref())
                }
            };
            let record_gone = match &pod {
                Some(pod) => self.unbind(pod, &container, &interface, "SandboxDeleted").await,
                None => Ok(()),
            };
            interface_gone.and(record_gone)
        };
        let outcome = timeout_at(deadline, removal).await.unwrap_or(Err(NodeError::Deadline));
        outcome.map_err(|error| {
            tracing::warn!(pod = %lock_name, %error, "DEL failed; the runtime tries again");
            error.for_runtime(&lock_name)
        })
    }

    /// Takes an interface out of its pod's record. Addresses that are free thereby have their claims marked in the
    /// background.
    pub(super) async fn unbind(
        &self,
        pod: &PodName,
        container: &ContainerId,
        interface: &IfName,
        reason: &str,
    ) -> Result<(), NodeError> {
        let has_other_interfaces = self.driver.has_other_interfaces(container, interface)?;
        let request = UnbindRequest { pod, container, interface, has_other_interfaces, reason };
        match self.backends.records.unbind(&request).await? {
            UnbindOutcome::Nothing => tracing::debug!(%pod, %container, "holds nothing (any more)"),
            UnbindOutcome::Reserved => tracing::info!(%pod, %container, reason, "unbound; its addresses stay reserved"),
            UnbindOutcome::Released(addresses) => {
                tracing::info!(%pod, %container, reason, ?addresses, "released");
                let (records, pod) = (self.backends.records.clone(), pod.clone());
                self.driver.background.spawn(async move { records.release_addresses(&pod, &addresses).await });
            }
        }
        Ok(())
    }
}
