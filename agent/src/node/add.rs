//! ADD: records, interface and guard, in an order that keeps an older sandbox of the pod reachable until the new one
//! is.
//!
//! ```text
//! Plugin::Holdfast    ┌ records: bind ┐─▶ guard: attach ─▶ addresses ─▶ guard: bind ─▶ advertise ─▶ uplink ─▶ reply
//!                     └ link: create  ┘
//! Plugin::Spiderpool    records: bind ─▶ guard: older sandboxes stale ─▶ guard: attach, bind (in the pod) ─▶ reply
//! ```
//!
//! A failure undoes all of it in reverse: guard silent, link removed (with the guard after it), record taken back. What
//! cannot be undone is logged: the runtime's DEL and the controller come after.

use std::time::Duration;

use holdfast_cni::{AddResult, CniError, Invocation, Plugin};
use holdfast_core::{
    binding::{Event, LinkOwner},
    guard_mode::GuardMode,
    id::PodName,
};
use holdfast_ipam::IpAllocation;
use holdfast_net::{ConfiguredLink, PodLink, PodNet};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    add_result::{add_result, interfaces, pod_net},
    attachments::Attachments,
    cni_request::CniRequest,
    error::NodeError,
    pod_netns::PodInterface,
};

/// The time that undoing a failed ADD may take, beyond the deadline that it may have failed for.
const UNDO: Duration = Duration::from_secs(5);

impl Attachments {
    /// Gives a container its interface and addresses. Repeated for the same container it returns the same result.
    pub async fn add(&self, invocation: &Invocation, deadline: Instant) -> Result<AddResult, CniError> {
        let request = CniRequest::for_add(invocation)?;
        let pod = &request.pod;
        let Ok(_lock) = timeout_at(deadline, self.driver.locks.lock(pod)).await else {
            return Err(NodeError::Deadline.for_runtime(pod));
        };
        let attached = self.driver.is_attached(&request.container, &request.interface);
        let attached = attached.map_err(|error| error.for_runtime(pod))?;
        let added = match invocation.plugin {
            Plugin::Holdfast => {
                timeout_at(deadline, self.add_interface(&request)).await.unwrap_or(Err(NodeError::Deadline))
            }
            Plugin::Spiderpool => self.add_addresses(&request, deadline).await,
        };
        let error = match added {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        tracing::warn!(%pod, %error, "ADD failed");
        // A container that has its interface already keeps it, whatever a repeated ADD runs into.
        if !attached && timeout(UNDO, self.undo(&request, invocation.plugin, &error)).await.is_err() {
            tracing::warn!(%pod, "a failed ADD was not undone in time; the runtime's DEL and the controller come after");
        }
        Err(error.for_runtime(pod))
    }

    async fn add_interface(&self, request: &CniRequest) -> Result<AddResult, NodeError> {
        let spec = request.link()?;
        let bind = request.bind_request();
        // The link needs no address: it is made while the API server is asked for one.
        let (link, allocation) = tokio::join!(self.backends.links.create(&spec), self.backends.records.bind(&bind));
        // A request that the API server refuses is the better explanation when both fail.
        let allocation = allocation?;
        let link = link?;
        let net = pod_net(request, &allocation)?;
        let configured = self.connect(&link, &net, &allocation).await?;
        self.driver.attachments.insert(link.host_index, request.attachment());
        self.release_displaced(&request.pod, &allocation);
        self.driver.watch_sandbox(request.container.clone());
        tracing::info!(
            pod = %request.pod, generation = %allocation.generation, link = %link.host_name,
            addresses = ?net.ips().collect::<Vec<_>>(), "attached"
        );
        Ok(add_result(&allocation, &interfaces(&link, configured.mtu, request)))
    }

    /// Guards a new link and leads the addresses to it. The guard is there before the link comes up, and the binding
    /// right before the address is taken from an older sandbox: in between, packets to it would reach neither.
    async fn connect(
        &self,
        link: &PodLink,
        net: &PodNet,
        allocation: &IpAllocation,
    ) -> Result<ConfiguredLink, NodeError> {
        let (driver, links) = (&self.driver, &self.backends.links);
        let owner = LinkOwner { tag: link.spec.container.tag(), mac: link.pod_mac };
        let (generation, mode) = (allocation.generation, self.mode_of(allocation));
        driver.attach_host_link((link.host_index, &link.host_name), mode, owner, generation)?;
        let configured = links.configure(link, net).await?;
        driver.bind_link(link.host_index, owner, generation, net.ips())?;
        links.advertise(link, net, &configured.uplink).await?;
        self.backends.guard.attach_uplink(configured.uplink.index, &configured.uplink.name)?;
        Ok(configured)
    }

    /// As IPAM delegate: the interface is another plugin's. Once the records name the container, the deadline cuts
    /// nothing off any more: putting the guard on takes milliseconds, and an undo would not know how far it had come.
    async fn add_addresses(&self, request: &CniRequest, deadline: Instant) -> Result<AddResult, NodeError> {
        let bind = request.bind_request();
        let bound = timeout_at(deadline, self.backends.records.bind(&bind)).await;
        let allocation = bound.map_err(|_| NodeError::Deadline)??;
        // The pod's older sandboxes are silent before the runtime hears that it may start the new one.
        let addresses: Vec<_> = allocation.ip.networks().map(|net| net.addr()).collect();
        for &address in &addresses {
            self.driver.step(Event::Reassigned { address, to: request.container.tag() })?;
        }
        self.release_displaced(&request.pod, &allocation);
        self.driver.watch_sandbox(request.container.clone());
        if let Ok(netns) = request.netns() {
            let (attachment, mode) = (request.attachment(), self.mode_of(&allocation));
            let wanted = PodInterface { attachment, netns, generation: allocation.generation, mode, addresses };
            self.driver.attach_pod_interface(wanted, pod_net(request, &allocation).ok()).await;
        }
        Ok(add_result(&allocation, &[]))
    }

    /// Returns the guard mode that the pod asks for, or else the node's.
    fn mode_of(&self, allocation: &IpAllocation) -> GuardMode {
        allocation.mode.unwrap_or(self.driver.mode)
    }

    /// Make before break: addresses that the pod moved away from go only once the new ones work.
    fn release_displaced(&self, pod: &PodName, allocation: &IpAllocation) {
        if allocation.displaced.is_empty() {
            return;
        }
        let (records, pod, displaced) = (self.backends.records.clone(), pod.clone(), allocation.displaced.clone());
        self.driver.background.spawn(async move { records.release_addresses(&pod, &displaced).await });
    }

    /// Undoes a failed ADD, in reverse.
    async fn undo(&self, request: &CniRequest, plugin: Plugin, why: &NodeError) {
        let CniRequest { pod, container, interface, .. } = request;
        let removed = match plugin {
            Plugin::Holdfast => self.driver.remove_link(container, interface).await,
            Plugin::Spiderpool => self.driver.release_pod_interface(container, interface, None),
        };
        if let Err(error) = removed {
            tracing::warn!(%pod, %error, "the interface of a failed ADD was not removed");
        }
        // An ADD that failed in the records has taken back what it wrote there.
        if matches!(why, NodeError::Ipam(_) | NodeError::Request(_)) {
            return;
        }
        if let Err(error) = self.unbind(pod, container, interface, "AddFailed").await {
            tracing::warn!(%pod, %error, "the record of a failed ADD was not taken back");
        }
    }
}
