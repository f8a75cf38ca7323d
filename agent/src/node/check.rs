//! CHECK and STATUS: whether things are as they were made, and whether an ADD would work.

use std::{net::IpAddr, time::Instant};

use holdfast_cni::{CniError, Invocation, Plugin, code};
use holdfast_core::id::Generation;
use holdfast_guard::{Binding, BindingState};
use holdfast_ipam::IpAllocation;

use super::{Attach, NodeError, cni_request::CniRequest, pod_net};

impl Attach {
    /// Compares a container's record and interface with what they should be.
    pub async fn check(&self, invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let request = CniRequest::for_add(invocation)?;
        let outcome = tokio::time::timeout_at(deadline.into(), self.try_check(&request, invocation.plugin)).await;
        outcome.unwrap_or(Err(NodeError::Deadline)).map_err(|error| error.for_runtime(&request.pod))
    }

    async fn try_check(&self, request: &CniRequest, plugin: Plugin) -> Result<(), NodeError> {
        let Some((ip, generation)) =
            self.ipam.interface_record(&request.pod, &request.container, &request.interface).await?
        else {
            let msg = format!(
                "pod {}: container {} is not the one that holds the pod's addresses on {}",
                request.pod, request.container, request.interface
            );
            return Err(CniError::new(code::STALE, msg).into());
        };
        if plugin == Plugin::Spiderpool {
            return Ok(());
        }
        let bound = IpAllocation { ip, generation, mode: None, displaced: Vec::new() };
        let spec = request.link()?;
        let net = pod_net(request, &bound)?;
        self.network.check(&spec, &net).await?;
        self.check_guard(request, generation, net.ips())
    }

    /// The guard has to let the container's packets pass, and no one else's.
    fn check_guard(
        &self,
        request: &CniRequest,
        generation: Generation,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<(), NodeError> {
        let (links, _) = self.guarded_links(&request.container, &request.interface)?;
        let bindings = self.datapath.bindings()?;
        let current = |address: &IpAddr| {
            bindings.iter().any(|Binding { entry, state }| {
                links.iter().any(|link| link.link == entry.link)
                    && (entry.address, entry.generation, *state) == (*address, generation, BindingState::Current)
            })
        };
        let missing: Vec<_> =
            addresses.filter(|address| !current(address)).map(|address| address.to_string()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!(
            "pod {}: the guard does not have {} as the addresses of {} in container {}; the agent's next comparison mends it",
            request.pod,
            missing.join(", "),
            request.interface,
            request.container
        );
        Err(CniError::new(code::INTERNAL, msg).into())
    }

    /// Whether an ADD would work now: the API server answers.
    pub async fn status(&self, _invocation: &Invocation, deadline: Instant) -> Result<(), CniError> {
        let answer = tokio::time::timeout_at(deadline.into(), self.ipam.ping_api_server()).await;
        let why = match answer {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        Err(CniError::new(code::NOT_AVAILABLE, format!("the agent cannot work with the API server: {why}")))
    }
}
