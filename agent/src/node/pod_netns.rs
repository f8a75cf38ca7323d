//! The guard for interfaces that another plugin makes, where holdfast is its IPAM delegate: inside the pod's network
//! namespace, as soon as the interface is there.
//!
//! Some plugins make the interface before they ask for addresses, others after. Either way it is the one of that name
//! in that namespace.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_api::endpoint::EndpointIp;
use holdfast_core::{
    binding::LinkOwner,
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfName},
};
use holdfast_net::{PodAddress, PodNet};
use tokio::time::Instant;

use super::{
    attachment::Attachment,
    driver::{GuardDriver, link_info},
    error::NodeError,
};

/// The time for which the interface is waited for. A plugin makes it within moments or not at all.
const CREATION: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The time that another plugin has from our DEL, which comes first, to the removal of its interface.
const REMOVAL: Duration = Duration::from_secs(10);
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// An interface that another plugin makes, and the bindings that the guard is to enforce on it.
#[derive(Debug, Clone)]
pub(super) struct PodInterface {
    pub(super) attachment: Attachment,
    pub(super) netns: PathBuf,
    pub(super) generation: Generation,
    pub(super) mode: GuardMode,
    pub(super) addresses: Vec<IpAddr>,
}

impl GuardDriver {
    /// Puts the guard on an interface, at once where it is there already, and else in the background. `net` is what
    /// leads to its uplink. The caller has locked the pod.
    pub(super) async fn attach_pod_interface(&self, wanted: PodInterface, net: Option<PodNet>) {
        let driver = self.clone();
        let attached = self.try_attach(&wanted).await;
        self.background.spawn(async move {
            if attached || driver.await_pod_interface(&wanted).await {
                if let Some(net) = net {
                    driver.watch_uplink(&net).await;
                }
                // The plugin announces IPv4 at best, and sets the address only after the reply to its ADD.
                let PodInterface { attachment, netns, addresses, .. } = &wanted;
                driver.backends.namespaces.announce(netns, &attachment.interface, addresses).await;
            }
        });
    }

    /// Waits for an interface and puts the guard on it. Returns false if it did not come, or is not wanted any more.
    async fn await_pod_interface(&self, wanted: &PodInterface) -> bool {
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        let Attachment { pod, container, interface } = &wanted.attachment;
        while begun.elapsed() < CREATION && !self.background.is_stopping() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let _lock = self.locks.lock(pod).await;
            match self.backends.records.interface_record(pod, container, interface).await {
                // A DEL or a newer sandbox came first.
                Ok(None) => return false,
                Ok(Some(_)) if self.try_attach(wanted).await => return true,
                Ok(Some(_)) => {}
                Err(error) => {
                    tracing::debug!(%pod, %error, "the record of a delegate's pod was not read; trying again");
                }
            }
        }
        tracing::warn!(%pod, %interface, "no plugin made the interface that the guard waited for");
        false
    }

    /// Returns whether the interface was there and has the guard.
    async fn try_attach(&self, wanted: &PodInterface) -> bool {
        self.attach_in_netns(wanted).await.unwrap_or_else(|error| {
            tracing::warn!(pod = %wanted.attachment.pod, %error, "the guard is not on this pod's interface; trying again");
            false
        })
    }

    async fn attach_in_netns(&self, wanted: &PodInterface) -> Result<bool, NodeError> {
        let PodInterface { attachment, netns, generation, mode, addresses } = wanted;
        let Attachment { pod, container, interface } = attachment;
        let Some(mac) = self.backends.namespaces.mac_of(netns, interface).await? else { return Ok(false) };
        let owner = LinkOwner { tag: container.tag(), mac };
        // A repeated ADD finds its own earlier link.
        for link in self.fence(container, interface)? {
            self.detach(&link)?;
        }
        let info = link_info(owner, *generation, *mode);
        let link = self.backends.guard.attach_inside(netns, interface, info).await?;
        self.attachments.insert(link, attachment.clone());
        self.bind_link(link, owner, *generation, addresses.iter().copied())?;
        tracing::info!(%pod, %container, %interface, ?addresses, "guarded inside the pod's namespace");
        Ok(true)
    }

    /// Has the guard listen for others on the LAN who claim these addresses, and judge what gets past it inside the
    /// pods. Interfaces of other plugins may lead to no LAN at all, so not finding one is no error.
    async fn watch_uplink(&self, net: &PodNet) {
        let guard = &self.backends.guard;
        let watched = match self.backends.links.uplink(net).await {
            Ok(uplink) => guard.attach_shared_uplink(uplink.index, &uplink.name).map_err(NodeError::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = watched {
            tracing::debug!(%error, "other claims on these addresses will not be seen");
        }
    }

    /// Puts the guard on an interface that another plugin made, from its record: after a crash between its ADD and its
    /// guard, or where the guard went with an earlier agent. The caller has locked the pod.
    pub(super) async fn reattach_pod_interface(
        &self,
        attachment: Attachment,
        record: (EndpointIp, Generation),
        mode: GuardMode,
    ) {
        let Some(pid) = self.sandboxes.pid(attachment.container.tag()) else { return };
        let ((ip, generation), netns) = (record, self.backends.processes.netns(pid));
        let addresses = ip.networks().map(|net| net.addr()).collect();
        if self.try_attach(&PodInterface { attachment, netns, generation, mode, addresses }).await {
            let addresses = ip.networks().map(|address| PodAddress { address, gateway: None }).collect();
            self.watch_uplink(&PodNet { addresses, ..PodNet::default() }).await;
        }
    }

    /// Silences an interface that is another plugin's to remove. The guard goes from it in the background, once the
    /// interface is gone or `netns` is not known.
    pub(super) fn release_pod_interface(
        &self,
        container: &ContainerId,
        interface: &IfName,
        netns: Option<&str>,
    ) -> Result<(), NodeError> {
        let links = self.fence(container, interface)?;
        if links.is_empty() {
            return Ok(());
        }
        let (driver, interface, netns) = (self.clone(), interface.clone(), netns.map(PathBuf::from));
        self.background.spawn(async move {
            if let Some(netns) = netns {
                driver.wait_removed(&netns, &interface).await;
            }
            driver.detach_all(&links);
        });
        Ok(())
    }

    async fn wait_removed(&self, netns: &Path, interface: &IfName) {
        let begun = Instant::now();
        let is_there = async || self.backends.namespaces.mac_of(netns, interface).await.is_ok_and(|mac| mac.is_some());
        while begun.elapsed() < REMOVAL && !self.background.is_stopping() && is_there().await {
            tokio::time::sleep(REMOVAL_PAUSE).await;
        }
    }
}
