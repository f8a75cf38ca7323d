//! The end of an interface that holdfast made.

use holdfast_core::id::{ContainerId, IfName};
use holdfast_guard::Link;

use super::{driver::GuardDriver, error::NodeError};

impl GuardDriver {
    /// Removes a link of ours. It is silent from the first moment on, and the guard goes only after it, in the
    /// background: the kernel takes some 20 ms to remove an interface, in which a container that still runs can send.
    pub(super) async fn remove_link(&self, container: &ContainerId, interface: &IfName) -> Result<(), NodeError> {
        let name = container.host_link(interface);
        let fenced = self.fence(container, interface);
        let deleted = self.backends.links.delete(&name).await;
        let links = fenced?;
        deleted?;
        let driver = self.clone();
        self.background.spawn(async move {
            if let Err(error) = driver.backends.links.wait_deleted(&name).await {
                tracing::debug!(link = %name, %error, "the end of a link was not waited for");
            }
            driver.detach_all(&links);
        });
        Ok(())
    }

    /// Takes the guard off links that are gone.
    pub(super) fn detach_all(&self, links: &[Link]) {
        for link in links {
            if let Err(error) = self.detach(link) {
                tracing::warn!(link = %link.name, %error, "a link's guard was not removed; the next reconciliation does");
            }
        }
    }
}
