//! One link compared with its records: adopted, verified, removed, or left as it is.

use std::net::IpAddr;

use holdfast_api::endpoint::EndpointIp;
use holdfast_core::{
    binding::{Event, LinkOwner},
    guard_mode::GuardMode,
    id::{ContainerId, Generation, PodName},
};
use holdfast_guard::Link;
use holdfast_net::HostLink;

use super::{
    attachment::Attachment,
    error::NodeError,
    reconcile::Reconciler,
    sandbox::SandboxState,
    snapshot::{HolderRecord, Snapshot},
};

impl Reconciler {
    /// Compares a link on the node.
    pub(super) async fn reconcile_link(
        &self,
        link: &HostLink,
        known: Option<&Link>,
        snapshot: &Snapshot,
    ) -> Result<(), NodeError> {
        let mode = self.mode_for(link.pod.as_ref().and_then(|pod| snapshot.mode(pod)));
        if known.is_some_and(|known| known.info.mode != mode) {
            self.backends.guard.set_mode(link.index, mode)?;
        }
        match snapshot.holders.get(&link.container) {
            Some(record) if known.is_some() => {
                let carried = link.addresses.iter().copied();
                if snapshot.is_current(link.index, record.generation, carried) {
                    Ok(())
                } else {
                    self.adopt(link, mode).await
                }
            }
            Some(_) => self.adopt(link, mode).await,
            None => self.reconcile_unrecorded(link, mode).await,
        }
    }

    /// Returns the mode that a pod asks for, or else the node's.
    fn mode_for(&self, asked: Option<GuardMode>) -> GuardMode {
        asked.unwrap_or(self.driver.mode)
    }

    /// Binds what the link carries. The snapshot may be old by now: the endpoint is read again with the pod locked, so
    /// that no ADD comes in between.
    async fn adopt(&self, link: &HostLink, mode: GuardMode) -> Result<(), NodeError> {
        let Some(pod) = &link.pod else { return Ok(()) };
        let _lock = self.driver.locks.lock(pod).await;
        let record = self.backends.records.interface_record(pod, &link.container, &link.ifname).await?;
        let Some((ip, generation)) = record else { return Ok(()) };
        // A sandbox that died keeps its record only until that is collected.
        if self.driver.sandboxes.state(&link.container).await == SandboxState::Dead {
            return Ok(());
        }
        let carried = |address: &IpAddr| link.addresses.contains(address);
        let listed: Vec<_> = ip.networks().map(|net| net.addr()).filter(carried).collect();
        tracing::info!(%pod, link = %link.name, container = %link.container, addresses = ?listed, %generation, "adopted a link that the guard did not know as it is");
        let owner = owner_of(link);
        self.driver.attach_host_link((link.index, &link.name), mode, owner, generation)?;
        self.driver.bind_link(link.index, owner, generation, listed)
    }

    /// No endpoint names this link's container: a crash left it, or its address moved on. The records decide. A link
    /// whose sandbox is dead as well is removed.
    async fn reconcile_unrecorded(&self, link: &HostLink, mode: GuardMode) -> Result<(), NodeError> {
        let Some(pod) = &link.pod else { return Ok(()) };
        if self.driver.sandboxes.state(&link.container).await == SandboxState::Dead {
            let _lock = self.driver.locks.lock(pod).await;
            tracing::info!(%pod, link = %link.name, container = %link.container, "removed the link of a dead sandbox");
            return self.driver.remove_link(&link.container, &link.ifname).await;
        }
        let owner = owner_of(link);
        self.driver.attach_host_link((link.index, &link.name), mode, owner, Generation::default())?;
        self.driver.register(link.index, owner);
        self.driver.verify_link(link.index).await;
        Ok(())
    }

    /// Compares a link inside a pod, which another plugin made.
    pub(super) async fn reconcile_pod_interface(&self, link: &Link, snapshot: &Snapshot) -> Result<(), NodeError> {
        let known = match self.driver.attachments.get(link.link) {
            None => self.identify(link, snapshot).await,
            known => known,
        };
        let Some(attachment) = known else { return self.fence_unowned(link) };
        self.driver.attachments.insert(link.link, attachment.clone());
        let mode = self.mode_for(snapshot.mode(&attachment.pod));
        if link.info.mode != mode {
            self.backends.guard.set_mode(link.link, mode)?;
        }
        self.driver.check_sandbox(&attachment.container).await;
        if let Some(record) = snapshot.holders.get(&attachment.container) {
            let listed = record.interface(&attachment).into_iter().flat_map(EndpointIp::networks).map(|net| net.addr());
            if snapshot.is_current(link.link, record.generation, listed) {
                return Ok(());
            }
        } else if self.driver.sandboxes.state(&attachment.container).await == SandboxState::Dead {
            let _lock = self.driver.locks.lock(&attachment.pod).await;
            tracing::info!(pod = %attachment.pod, container = %attachment.container, "forgot the interface of a dead sandbox");
            return self.driver.detach(link);
        }
        self.driver.register(link.link, LinkOwner { tag: link.info.container_tag, mac: link.info.mac });
        self.driver.verify_link(link.link).await;
        Ok(())
    }

    /// Finds out whose a link inside a pod is, after an earlier agent made it: an endpoint names its container, or its
    /// sandbox's process still says.
    async fn identify(&self, link: &Link, snapshot: &Snapshot) -> Option<Attachment> {
        let tag = link.info.container_tag;
        let by_record = snapshot.holders.iter().find(|(container, _)| container.tag() == tag);
        let (container, pod) = match by_record {
            Some((container, record)) => (container.clone(), record.pod.clone()),
            None => self.identify_by_process(tag, snapshot).await?,
        };
        Some(Attachment { pod, container, interface: link.name.clone() })
    }

    async fn identify_by_process(&self, tag: u64, snapshot: &Snapshot) -> Option<(ContainerId, PodName)> {
        let watched = self.backends.guard.sandboxes().ok()?;
        let (pid, _) = watched.into_iter().find(|(_, watched)| *watched == tag)?;
        let (container, uid) = self.backends.processes.identity(pid).await?;
        (container.tag() == tag).then_some((container, snapshot.pods.get(&uid)?.clone()))
    }

    /// Fences the link inside a pod of a container that neither a record nor a process names.
    fn fence_unowned(&self, link: &Link) -> Result<(), NodeError> {
        tracing::info!(link = %link.link, name = %link.name, "fenced a link inside a pod that no record names");
        self.driver.step(Event::Detaching { link: link.link }).map(drop)
    }

    /// An endpoint names a container without any link of ours: another plugin made its interfaces, and no guard came to
    /// them.
    pub(super) async fn attach_missing(&self, container: &ContainerId, record: &HolderRecord, snapshot: &Snapshot) {
        if !self.driver.find_and_watch(container).await {
            return;
        }
        let pod = &record.pod;
        let _lock = self.driver.locks.lock(pod).await;
        for ip in &record.ips {
            let Ok(interface) = ip.interface.parse() else { continue };
            match self.backends.records.interface_record(pod, container, &interface).await {
                Ok(Some(record)) if self.driver.is_attached(container, &interface).is_ok_and(|attached| !attached) => {
                    let attachment = Attachment { pod: pod.clone(), container: container.clone(), interface };
                    let mode = self.mode_for(snapshot.mode(pod));
                    self.driver.reattach_pod_interface(attachment, record, mode).await;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%pod, %error, "not read; the next reconciliation looks again"),
            }
        }
    }
}

fn owner_of(link: &HostLink) -> LinkOwner {
    LinkOwner { tag: link.container.tag(), mac: link.pod_mac }
}
