//! CHECK: whether a container's record, interface and bindings are as they were made.

use std::net::IpAddr;

use holdfast_cni::{CniError, Invocation, Plugin, code};
use holdfast_core::id::Generation;
use holdfast_guard::{Binding, BindingState};
use holdfast_ipam::IpAllocation;
use tokio::time::{Instant, timeout_at};

use super::{add_result::pod_net, attachments::Attachments, cni_request::CniRequest, error::NodeError};

impl Attachments {
    /// Compares a container's record and interface with what they should be.
    pub async fn check(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let request = CniRequest::for_add(invocation)?;
        let outcome = timeout_at(deadline, self.try_check(&request, invocation.plugin)).await;
        outcome.unwrap_or(Err(NodeError::Deadline)).map_err(|error| error.for_runtime(&request.pod))
    }

    async fn try_check(&self, request: &CniRequest, plugin: Plugin) -> Result<(), NodeError> {
        let CniRequest { pod, container, interface, .. } = request;
        let Some((ip, generation)) = self.backends.records.interface_record(pod, container, interface).await? else {
            let msg = format!(
                "pod {pod}: container {container} is not the one that holds the pod's addresses on {interface}"
            );
            return Err(CniError::new(code::STALE, msg).into());
        };
        if plugin == Plugin::Spiderpool {
            return Ok(());
        }
        let allocation = IpAllocation { ip, generation, mode: None, displaced: Vec::new() };
        let spec = request.link()?;
        let net = pod_net(request, &allocation)?;
        self.backends.links.check(&spec, &net).await?;
        self.check_guard(request, generation, net.ips())
    }

    /// The guard has to let the container's packets pass, and no one else's.
    fn check_guard(
        &self,
        request: &CniRequest,
        generation: Generation,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<(), NodeError> {
        let CniRequest { pod, container, interface, .. } = request;
        let (links, _) = self.driver.guarded_links(container, interface)?;
        let bindings = self.backends.guard.bindings()?;
        let is_current = |address: &IpAddr| {
            bindings.iter().any(|Binding { entry, state }| {
                links.iter().any(|link| link.link == entry.link)
                    && (entry.address, entry.generation, *state) == (*address, generation, BindingState::Current)
            })
        };
        let missing: Vec<_> =
            addresses.filter(|address| !is_current(address)).map(|address| address.to_string()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!(
            "pod {pod}: the guard does not have {} as the addresses of {interface} in container {container}; the agent's next reconciliation repairs it",
            missing.join(", "),
        );
        Err(CniError::new(code::INTERNAL, msg).into())
    }
}
