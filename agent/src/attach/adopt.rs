//! Keeping kernel and records in step: on start, and again now and then. Whatever a crash, a lost event or a hand-made
//! change left different is mended here.
//!
//! ```text
//! maps ↔ links        a guarded link that is gone is forgotten; a link of ours without a guard gets one
//! links ↔ endpoints   a container that its endpoint names has its addresses; any other is looked at, and fenced or rebound
//! links ↔ sandboxes   a live sandbox is watched; one that died unseen is handled as if its end had been reported
//! ```

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use holdfast_api::endpoint::SpiderEndpoint;
use holdfast_core::{
    binding::{Event, Party},
    id::{ContainerId, Generation},
};

use super::{Attach, AttachError, guard::link_info};
use crate::{
    datapath::{self, Binding, BindingState, LinkRole},
    net::HostLink,
    sandbox::Life,
};

/// Between two full comparisons.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long an ADD may take from its record to its binding before the two are compared.
const SETTLED: Duration = Duration::from_millis(500);
/// After a comparison that failed.
const RETRY: Duration = Duration::from_secs(2);

impl Attach {
    /// Compares and mends, for as long as it is polled: every minute, and soon after [`Self::endpoint_left`].
    pub async fn keep_true(self) -> anyhow::Result<()> {
        loop {
            let pause = match self.compare().await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "the node was not compared with the records; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// An endpoint of this node was written. Where it names a container that the guard does not know once an ADD had time
    /// to end, the record and the node disagree.
    pub fn endpoint_written(&self, endpoint: SpiderEndpoint) {
        let holder = endpoint.status.as_ref().and_then(|status| status.current.container_id.clone());
        let Some(container) = holder.filter(|container| !self.is_guarded(container)) else { return };
        let attach = self.clone();
        self.background.spawn(async move {
            tokio::time::sleep(SETTLED).await;
            if !attach.is_guarded(&container) {
                attach.endpoint_left(&endpoint).await;
            }
        });
    }

    /// An endpoint is no longer bound on this node. What is left of it here is looked at.
    pub async fn endpoint_left(&self, endpoint: &SpiderEndpoint) {
        let holder = endpoint.status.as_ref().and_then(|status| status.current.container_id.clone());
        let pod = endpoint.pod();
        let links = self.network.links().await.unwrap_or_default();
        let left = links.iter().any(|link| link.pod.as_ref() == Some(&pod) || holder.as_ref() == Some(&link.container));
        if left {
            self.wanted.notify_one();
        }
    }

    async fn compare(&self) -> Result<(), AttachError> {
        // Guarded links first: an ADD guards a link only after it has made it, so none is taken for gone.
        let guarded = self.datapath.links()?;
        let links = self.network.links().await?;
        self.forget_gone(&guarded, &links)?;
        let endpoints = self.ipam.endpoints_here().await?;
        let holders: HashMap<ContainerId, Generation> = endpoints
            .into_iter()
            .filter_map(|endpoint| endpoint.status)
            .filter_map(|status| Some((status.current.container_id?, status.current.generation)))
            .collect();
        let bindings = self.datapath.bindings()?;
        let current: HashSet<_> = bindings
            .into_iter()
            .filter(|binding| binding.state == BindingState::Current)
            .map(|Binding { entry, .. }| (entry.link, entry.address, entry.generation))
            .collect();
        for link in &links {
            let attached = guarded.iter().any(|known| known.link == link.index && known.name == link.name);
            let bound = |generation: Generation| {
                let bound = |address: &IpAddr| current.contains(&(link.index, *address, generation));
                attached && link.addresses.iter().all(bound)
            };
            let outcome = match holders.get(&link.container) {
                Some(&generation) if bound(generation) => Ok(()),
                Some(_) => self.adopt(link).await,
                None => self.question(link).await,
            };
            if let Err(error) = outcome {
                tracing::warn!(link = %link.name, container = %link.container, %error, "a link was not compared; the others are");
            }
            self.watch_unwatched(&link.container).await;
        }
        self.network.sweep().await?;
        Ok(())
    }

    /// A link of the node that the kernel no longer has. Those inside pods are their namespaces' business.
    fn forget_gone(&self, guarded: &[datapath::Link], links: &[HostLink]) -> Result<(), AttachError> {
        let there: HashSet<_> = links.iter().map(|link| (link.index, &link.name)).collect();
        let gone = guarded
            .iter()
            .filter(|link| link.role == LinkRole::Pod && !link.inside && !there.contains(&(link.link, &link.name)));
        for link in gone {
            tracing::info!(link = %link.name, "forgot a guarded link that is gone");
            self.datapath.detach_pod_link(link.link, &link.name)?;
            self.step(Event::Detach { link: link.link })?;
        }
        Ok(())
    }

    /// Binds what the link carries. The list that brought us here may be old by now: the endpoint is read again in the
    /// pod's turn, so that no ADD comes in between.
    async fn adopt(&self, link: &HostLink) -> Result<(), AttachError> {
        let Some(pod) = &link.pod else { return Ok(()) };
        let _turn = self.locks.turn(pod).await;
        let Some((ip, generation)) = self.ipam.record(pod, &link.container, &link.ifname).await? else { return Ok(()) };
        // A sandbox that died keeps its record only until that is collected.
        if self.sandboxes.life(&link.container) == Life::Dead {
            return Ok(());
        }
        let carried = |address: &IpAddr| link.addresses.contains(address);
        let listed: Vec<_> = ip.networks().map(|net| net.addr()).filter(carried).collect();
        tracing::info!(%pod, link = %link.name, container = %link.container, addresses = ?listed, %generation, "adopted a link that the guard did not know as it is");
        let mode = self.mode_of(link.index)?;
        self.guard_host_link((link.index, &link.name, mode), party_of(link), generation, listed)
    }

    /// No endpoint names this link's container: a crash left it, or its address moved on. The records decide. A link
    /// whose sandbox is dead as well is nobody's.
    async fn question(&self, link: &HostLink) -> Result<(), AttachError> {
        let Some(pod) = &link.pod else { return Ok(()) };
        if self.sandboxes.life(&link.container) == Life::Dead {
            let _turn = self.locks.turn(pod).await;
            tracing::info!(%pod, link = %link.name, container = %link.container, "removed the link of a dead sandbox");
            return self.remove_link(&link.container, &link.ifname).await;
        }
        let party = party_of(link);
        let info = link_info(party, Generation::default(), self.mode_of(link.index)?);
        self.datapath.attach_pod_link(link.index, &link.name, info)?;
        self.know(link.index, party);
        self.reconsider(link.index).await;
        Ok(())
    }

    /// A sandbox whose process is not known yet is looked for; one that ended unseen is reported.
    async fn watch_unwatched(&self, container: &ContainerId) {
        let tag = container.tag();
        match self.sandboxes.process(tag) {
            None => drop(self.begin_watch(container).await),
            Some(process) if self.sandboxes.life(container) == Life::Dead => self.sandbox_exited(tag, process).await,
            Some(_) => {}
        }
    }
}

fn party_of(link: &HostLink) -> Party {
    Party { tag: link.container.tag(), mac: link.pod_mac.0 }
}
