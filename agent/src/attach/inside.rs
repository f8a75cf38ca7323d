//! The guard for interfaces that another plugin makes: inside the pod's namespace, as soon as the interface is there.
//!
//! Some plugins make the interface before they ask for addresses, others after. Either way it is the one of that name in
//! that namespace.

use std::{net::IpAddr, os::fd::AsFd, path::PathBuf, time::Duration};

use holdfast_core::{
    binding::Party,
    id::{ContainerId, Generation, IfName},
};
use tokio::time::Instant;

use super::{
    Attach, AttachError,
    call::Call,
    guard::{Tenant, link_info},
};
use crate::{datapath::Mode, ipam::Bound, net::Netns};

/// How long the interface is waited for. A plugin makes it within moments or not at all.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What is to be guarded.
#[derive(Debug, Clone)]
struct Wanted {
    tenant: Tenant,
    netns: PathBuf,
    generation: Generation,
    mode: Mode,
    addresses: Vec<IpAddr>,
}

/// The plugin sets the address only after it has got it, and may announce it for one family or for none.
const ANNOUNCE: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// Tells the LAN where the addresses are now, as the plugins do for IPv4 at best.
async fn announce(wanted: &Wanted) {
    for pause in ANNOUNCE {
        tokio::time::sleep(pause).await;
        let wanted = wanted.clone();
        let told = tokio::task::spawn_blocking(move || {
            Netns::open(&wanted.netns)?.announce(&wanted.tenant.interface, &wanted.addresses)
        });
        match told.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "not announced"),
            Err(_) => return,
        }
    }
}

impl Attach {
    /// Waits for the interface and puts the guard on it.
    pub(super) fn guard_inside_later(&self, call: &Call, bound: &Bound) {
        let Ok(netns) = call.netns() else { return };
        let tenant =
            Tenant { pod: call.pod.clone(), container: call.container.clone(), interface: call.interface.clone() };
        let addresses = bound.ip.networks().map(|net| net.addr()).collect();
        let wanted =
            Wanted { tenant, netns, generation: bound.generation, mode: bound.mode.unwrap_or(self.mode), addresses };
        let attach = self.clone();
        self.background.spawn(async move {
            let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
            while begun.elapsed() < PATIENCE && !attach.stop.is_cancelled() {
                let turn = attach.locks.turn(&wanted.tenant.pod).await;
                match attach.guard_inside(&wanted).await {
                    Ok(true) => {
                        drop(turn);
                        return announce(&wanted).await;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(pod = %wanted.tenant.pod, %error, "the guard is not on this pod's interface");
                        return;
                    }
                }
                drop(turn);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tracing::warn!(pod = %wanted.tenant.pod, interface = %wanted.tenant.interface, "no plugin made the interface that the guard waited for");
        });
    }

    /// Whether the interface was there, or is none of ours any more.
    async fn guard_inside(&self, wanted: &Wanted) -> Result<bool, AttachError> {
        let Tenant { pod, container, interface } = &wanted.tenant;
        // A DEL or a newer sandbox came first.
        if self.ipam.record(pod, container, interface).await?.is_none() {
            return Ok(true);
        }
        let Some(mac) = Self::interface_in(&wanted.netns, interface)? else { return Ok(false) };
        let party = Party { tag: container.tag(), mac };
        self.forget_inside(container)?;
        let netns = Netns::open(&wanted.netns)?;
        let link =
            self.datapath.attach_inside(netns.as_fd(), interface, link_info(party, wanted.generation, wanted.mode))?;
        let mut tenants = self.tenants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tenants.insert(link, wanted.tenant.clone());
        drop(tenants);
        self.bind_link(link, party, wanted.generation, wanted.addresses.iter().copied())?;
        tracing::info!(%pod, %container, %interface, addresses = ?wanted.addresses, "guarded inside the pod's namespace");
        Ok(true)
    }

    /// A repeated ADD finds its own earlier link.
    fn forget_inside(&self, container: &ContainerId) -> Result<(), AttachError> {
        let tag = container.tag();
        for link in self.datapath.links()?.into_iter().filter(|link| link.inside && link.info.container_tag == tag) {
            self.datapath.detach_pod_link(link.link, &link.name)?;
        }
        Ok(())
    }

    /// The hardware address of an interface in a namespace. None: it is not there yet.
    fn interface_in(netns: &std::path::Path, interface: &IfName) -> Result<Option<[u8; 6]>, AttachError> {
        let netns = Netns::open(netns)?;
        Ok(netns.mac_of(interface)?.map(|mac| mac.0))
    }
}
