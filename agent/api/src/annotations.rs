//! The annotations that people write on pods, templates and namespaces.

use std::{collections::BTreeMap, time::Duration};

use holdfast_core::guard_mode::GuardMode;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::retain::parse_retain;

/// A pod's pools for each interface: `[{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"],"cleangateway":false}]`.
pub const IPPOOLS: &str = "ipam.spidernet.io/ippools";
/// The pools of a pod's only interface: `{"ipv4":["pool"],"ipv6":["pool"]}`.
pub const IPPOOL: &str = "ipam.spidernet.io/ippool";
/// A namespace's IPv4 pools: `["pool"]`.
pub const NAMESPACE_IPV4: &str = "ipam.spidernet.io/default-ipv4-ippool";
/// A namespace's IPv6 pools: `["pool"]`.
pub const NAMESPACE_IPV6: &str = "ipam.spidernet.io/default-ipv6-ippool";
/// More routes for a pod: `[{"dst":"10.0.0.0/8","gw":"172.22.0.9"}]`.
pub const ROUTES: &str = "ipam.spidernet.io/routes";
/// The interface that gets the default route.
pub const DEFAULT_ROUTE_NIC: &str = "ipam.spidernet.io/default-route-nic";
/// The addresses of each ordinal, on a StatefulSet's template: `{"0":["10.0.0.10"],"1":["10.0.0.11"]}`.
pub const STATIC_IPS: &str = "ipam.spidernet.io/static-ips";
/// The time for which an address is kept after its ordinal is scaled away, on the pod (from its template) or the
/// StatefulSet. The endpoint remembers it, since the pod is gone when it counts.
pub const RETAIN: &str = "ipam.spidernet.io/retain";
/// `enforce` or `observe`: what the guard does with packets whose address is not the pod's own.
pub const GUARD: &str = "holdfast.io/guard";

/// Returns what [`RETAIN`] says; none where it is absent or malformed, which an ADD refuses.
pub fn retain_of(annotations: &BTreeMap<String, String>) -> Option<Duration> {
    parse_retain(annotations.get(RETAIN)?).ok()
}

/// Returns what [`GUARD`] says; none where it is absent or malformed, which an ADD refuses.
pub fn guard_mode_of(pod: &Pod) -> Option<GuardMode> {
    pod.annotations().get(GUARD)?.parse().ok()
}
