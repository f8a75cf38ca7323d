//! The guard for interfaces that another plugin makes: inside the pod's namespace, as soon as the interface is there.
//!
//! Some plugins make the interface before they ask for addresses, others after. Either way it is the one of that name in
//! that namespace.

use std::{
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_api::endpoint::EndpointIp;
use holdfast_core::{
    binding::LinkOwner,
    guard_mode::GuardMode,
    id::{Generation, IfName},
    mac::Mac,
};
use holdfast_ipam::IpAllocation;
use holdfast_net::{Netns, PodAddress, PodNet};
use tokio::time::Instant;

use super::{
    Attach, NodeError,
    cni_request::CniRequest,
    driver::{Attachment, link_info},
    pod_net,
};

/// How long the interface is waited for. A plugin makes it within moments or not at all.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What is to be guarded.
#[derive(Debug, Clone)]
struct PodInterface {
    attachment: Attachment,
    netns: PathBuf,
    generation: Generation,
    mode: GuardMode,
    addresses: Vec<IpAddr>,
}

impl Attach {
    /// Puts the guard on the interface, at once where it is there already. In the pod's lock.
    pub(super) fn attach_pod_interface(&self, request: &CniRequest, bound: &IpAllocation) {
        let Ok(netns) = request.netns() else { return };
        let attachment = Attachment::of_request(request);
        let addresses = bound.ip.networks().map(|net| net.addr()).collect();
        let wanted = PodInterface {
            attachment,
            netns,
            generation: bound.generation,
            mode: bound.mode.unwrap_or(self.mode),
            addresses,
        };
        let (attach, net) = (self.clone(), pod_net(request, bound));
        let there = self.try_attach(&wanted);
        self.background.spawn(async move {
            if there || attach.await_pod_interface(&wanted).await {
                if let Ok(net) = net {
                    attach.watch_uplink(&net).await;
                }
                // The plugin announces IPv4 at best, and sets the address only after the reply to its ADD.
                let interface = &wanted.attachment.interface;
                Netns::announce_repeatedly(&wanted.netns, interface, &wanted.addresses).await;
            }
        });
    }

    /// Waits for the interface and puts the guard on it. Whether it came, and is still wanted.
    async fn await_pod_interface(&self, wanted: &PodInterface) -> bool {
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        let Attachment { pod, container, interface } = &wanted.attachment;
        while begun.elapsed() < PATIENCE && !self.stop.is_cancelled() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let _lock = self.locks.lock(pod).await;
            match self.ipam.interface_record(pod, container, interface).await {
                // A DEL or a newer sandbox came first.
                Ok(None) => return false,
                Ok(Some(_)) if self.try_attach(wanted) => return true,
                Ok(Some(_)) => {}
                Err(error) => {
                    tracing::debug!(%pod, %error, "the record of a delegate's pod was not read; trying again");
                }
            }
        }
        tracing::warn!(%pod, %interface, "no plugin made the interface that the guard waited for");
        false
    }

    /// Whether the interface was there and has the guard.
    fn try_attach(&self, wanted: &PodInterface) -> bool {
        self.attach_in_pod_netns(wanted).unwrap_or_else(|error| {
            tracing::warn!(pod = %wanted.attachment.pod, %error, "the guard is not on this pod's interface; trying again");
            false
        })
    }

    fn attach_in_pod_netns(&self, wanted: &PodInterface) -> Result<bool, NodeError> {
        let Attachment { pod, container, interface } = &wanted.attachment;
        let Some(mac) = Self::interface_in(&wanted.netns, interface)? else { return Ok(false) };
        let owner = LinkOwner { tag: container.tag(), mac };
        // A repeated ADD finds its own earlier link.
        for link in self.fence(container, interface)? {
            self.detach(&link)?;
        }
        let netns = Netns::open(&wanted.netns)?;
        let link =
            self.datapath.attach_inside(netns.as_fd(), interface, link_info(owner, wanted.generation, wanted.mode))?;
        self.attachments().insert(link, wanted.attachment.clone());
        self.bind_link(link, owner, wanted.generation, wanted.addresses.iter().copied())?;
        tracing::info!(%pod, %container, %interface, addresses = ?wanted.addresses, "guarded inside the pod's namespace");
        Ok(true)
    }

    /// Has the guard listen for others on the LAN who claim these addresses, and judge what gets past it inside the pods.
    /// Interfaces of other plugins may lead to no LAN at all, so not finding one is nothing to fail for.
    pub(super) async fn watch_uplink(&self, net: &PodNet) {
        let watched = match self.network.uplink(net).await {
            Ok(uplink) => self.datapath.attach_shared_uplink(uplink.index, &uplink.name).map_err(NodeError::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = watched {
            tracing::debug!(%error, "nobody listens for other claims on these addresses");
        }
    }

    /// Takes an endpoint's word for an interface that another plugin made: after a crash between its ADD and its guard,
    /// or where the guard went with an earlier agent.
    pub(super) async fn reattach_pod_interface(
        &self,
        attachment: Attachment,
        record: (EndpointIp, Generation),
        mode: GuardMode,
    ) {
        let Some(pid) = self.sandboxes.pid(attachment.container.tag()) else { return };
        let ((ip, generation), netns) = (record, PathBuf::from(format!("/proc/{pid}/ns/net")));
        let addresses = ip.networks().map(|net| net.addr()).collect();
        if self.try_attach(&PodInterface { attachment, netns, generation, mode, addresses }) {
            let addresses = ip.networks().map(|address| PodAddress { address, gateway: None }).collect();
            self.watch_uplink(&PodNet { addresses, ..PodNet::default() }).await;
        }
    }

    /// The hardware address of an interface in a namespace. None: it is not there (yet).
    pub(super) fn interface_in(netns: &Path, interface: &IfName) -> Result<Option<Mac>, NodeError> {
        let netns = Netns::open(netns)?;
        Ok(netns.mac_of(interface)?)
    }
}
