//! The requests of ADD and DEL, and their answers.

use std::net::IpAddr;

use holdfast_api::endpoint::EndpointIp;
use holdfast_cni::NetConf;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfName, PodName},
};

/// An ADD's request for the addresses of one interface.
#[derive(Debug, Clone)]
pub struct BindRequest<'a> {
    /// The pod.
    pub pod: PodName,
    /// The pod's UID, if the runtime passes it.
    pub uid: Option<String>,
    /// The sandbox.
    pub container: ContainerId,
    /// The interface in the sandbox.
    pub interface: IfName,
    /// The CNI configuration.
    pub conf: &'a NetConf,
}

/// The addresses that an ADD's interface has got.
#[derive(Debug, Clone, PartialEq)]
pub struct IpAllocation {
    /// The addresses, their gateways and the routes, as the endpoint lists them.
    pub ip: EndpointIp,
    /// The holder's generation.
    pub generation: Generation,
    /// The guard mode of the pod's annotation; none where the node's mode applies.
    pub mode: Option<GuardMode>,
    /// Addresses that the endpoint listed before and does not list now. To be released once the new ones work.
    pub displaced: Vec<IpAddr>,
}

/// A DEL's request to take one interface out of the records.
#[derive(Debug, Clone, Copy)]
pub struct UnbindRequest<'a> {
    /// The pod.
    pub pod: &'a PodName,
    /// The sandbox.
    pub container: &'a ContainerId,
    /// The interface in the sandbox.
    pub interface: &'a IfName,
    /// True where other interfaces of the sandbox stay. The sandbox then remains the holder of sticky addresses.
    pub has_other_interfaces: bool,
    /// The reason for the endpoint's history.
    pub reason: &'a str,
}

/// The change that a DEL made to the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnbindOutcome {
    /// None: the endpoint does not name the container as its holder.
    Nothing,
    /// The endpoint has no holder; its addresses stay reserved for the pod.
    Reserved,
    /// The endpoint no longer lists these addresses. Their claims are still to be marked as released.
    Released(Vec<IpAddr>),
}
