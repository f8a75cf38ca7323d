//! One link compared with its records: adopted, questioned, or left as it is.

use std::net::IpAddr;

use holdfast_api::endpoint::EndpointIp;
use holdfast_core::{
    binding::LinkOwner,
    guard_mode::GuardMode,
    id::{ContainerId, Generation},
};
use holdfast_net::HostLink;

use super::{
    Attach, NodeError,
    driver::Attachment,
    reconcile::{Held, Snapshot},
};
use crate::node::sandbox::{self, SandboxState};

impl Attach {
    /// A link on the node.
    pub(super) async fn reconcile_link(
        &self,
        link: &HostLink,
        known: Option<&holdfast_guard::Link>,
        snapshot: &Snapshot,
    ) -> Result<(), NodeError> {
        let mode = self.mode_for(link.pod.as_ref().and_then(|pod| snapshot.mode(pod)));
        if known.is_some_and(|known| known.info.mode != mode) {
            self.datapath.set_mode(link.index, mode)?;
        }
        match snapshot.holders.get(&link.container) {
            Some(held) if known.is_some() => {
                let carried = link.addresses.iter().copied();
                if snapshot.is_current(link.index, held.generation, carried) {
                    Ok(())
                } else {
                    self.adopt(link, mode).await
                }
            }
            Some(_) => self.adopt(link, mode).await,
            None => self.reconcile_unrecorded(link, mode).await,
        }
    }

    /// What a pod asks for, or else the node's.
    fn mode_for(&self, asked: Option<GuardMode>) -> GuardMode {
        asked.unwrap_or(self.mode)
    }

    /// Binds what the link carries. The list that brought us here may be old by now: the endpoint is read again in the
    /// pod's lock, so that no ADD comes in between.
    async fn adopt(&self, link: &HostLink, mode: GuardMode) -> Result<(), NodeError> {
        let Some(pod) = &link.pod else { return Ok(()) };
        let _lock = self.locks.lock(pod).await;
        let Some((ip, generation)) = self.ipam.interface_record(pod, &link.container, &link.ifname).await? else {
            return Ok(());
        };
        // A sandbox that died keeps its record only until that is collected.
        if self.sandboxes.state(&link.container) == SandboxState::Dead {
            return Ok(());
        }
        let carried = |address: &IpAddr| link.addresses.contains(address);
        let listed: Vec<_> = ip.networks().map(|net| net.addr()).filter(carried).collect();
        tracing::info!(%pod, link = %link.name, container = %link.container, addresses = ?listed, %generation, "adopted a link that the guard did not know as it is");
        let owner = owner_of(link);
        self.attach_host_link((link.index, &link.name, mode), owner, generation)?;
        self.bind_link(link.index, owner, generation, listed)
    }

    /// No endpoint names this link's container: a crash left it, or its address moved on. The records decide. A link
    /// whose sandbox is dead as well is nobody's.
    async fn reconcile_unrecorded(&self, link: &HostLink, mode: GuardMode) -> Result<(), NodeError> {
        let Some(pod) = &link.pod else { return Ok(()) };
        if self.sandboxes.state(&link.container) == SandboxState::Dead {
            let _lock = self.locks.lock(pod).await;
            tracing::info!(%pod, link = %link.name, container = %link.container, "removed the link of a dead sandbox");
            return self.remove_link(&link.container, &link.ifname).await;
        }
        let owner = owner_of(link);
        self.attach_host_link((link.index, &link.name, mode), owner, Generation::default())?;
        self.register(link.index, owner);
        self.verify_link(link.index).await;
        Ok(())
    }

    /// A link inside a pod, which another plugin made.
    pub(super) async fn reconcile_pod_interface(
        &self,
        link: &holdfast_guard::Link,
        snapshot: &Snapshot,
    ) -> Result<(), NodeError> {
        let known = self.attachments().get(&link.link).cloned();
        let Some(attachment) = known.or_else(|| self.identify(link, snapshot)) else { return self.fence_unowned(link) };
        self.attachments().insert(link.link, attachment.clone());
        let mode = self.mode_for(snapshot.mode(&attachment.pod));
        if link.info.mode != mode {
            self.datapath.set_mode(link.link, mode)?;
        }
        self.watch_unwatched(&attachment.container).await;
        if let Some(held) = snapshot.holders.get(&attachment.container) {
            let listed = held.on(&attachment).into_iter().flat_map(EndpointIp::networks).map(|net| net.addr());
            if snapshot.is_current(link.link, held.generation, listed) {
                return Ok(());
            }
        } else if self.sandboxes.state(&attachment.container) == SandboxState::Dead {
            let _lock = self.locks.lock(&attachment.pod).await;
            tracing::info!(pod = %attachment.pod, container = %attachment.container, "forgot the interface of a dead sandbox");
            return self.detach(link);
        }
        self.register(link.link, LinkOwner { tag: link.info.container_tag, mac: link.info.mac });
        self.verify_link(link.link).await;
        Ok(())
    }

    /// Whose a link inside a pod is, after an earlier agent made it: an endpoint names its container, or its sandbox's
    /// process still says.
    fn identify(&self, link: &holdfast_guard::Link, snapshot: &Snapshot) -> Option<Attachment> {
        let tag = link.info.container_tag;
        let by_record = snapshot.holders.iter().find(|(container, _)| container.tag() == tag);
        let found = by_record.map(|(container, held)| (container.clone(), held.pod.clone())).or_else(|| {
            let (pid, _) = self.datapath.sandboxes().ok()?.into_iter().find(|(_, watched)| *watched == tag)?;
            let (container, uid) = sandbox::identity(pid)?;
            (container.tag() == tag).then_some((container, snapshot.pods.get(&uid)?.clone()))
        });
        found.map(|(container, pod)| Attachment { pod, container, interface: link.name.clone() })
    }

    /// An endpoint names a container without any link of ours: another plugin made its interfaces, and no guard came to
    /// them.
    pub(super) async fn attach_missing(&self, container: &ContainerId, held: &Held, snapshot: &Snapshot) {
        if !self.find_and_watch(container).await {
            return;
        }
        let _lock = self.locks.lock(&held.pod).await;
        for ip in &held.ips {
            let Ok(interface) = ip.interface.parse() else { continue };
            match self.ipam.interface_record(&held.pod, container, &interface).await {
                Ok(Some(record)) if self.is_attached(container, &interface).is_ok_and(|attached| !attached) => {
                    let attachment = Attachment { pod: held.pod.clone(), container: container.clone(), interface };
                    self.reattach_pod_interface(attachment, record, self.mode_for(snapshot.mode(&held.pod))).await;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(pod = %held.pod, %error, "not read; the next comparison looks again"),
            }
        }
    }
}

impl Held {
    /// What the record says of a attachment's interface.
    fn on(&self, attachment: &Attachment) -> Option<&EndpointIp> {
        self.ips.iter().find(|ip| ip.interface == attachment.interface.as_str())
    }
}

fn owner_of(link: &HostLink) -> LinkOwner {
    LinkOwner { tag: link.container.tag(), mac: link.pod_mac }
}
