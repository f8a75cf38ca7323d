//! The interfaces of the node's network namespace.

use holdfast_core::{
    id::{IfIndex, IfName},
    mac::Mac,
};

/// Returns the present index of the interface with this name.
pub(super) fn index_of(ifname: &IfName) -> Option<IfIndex> {
    nix::net::if_::if_nametoindex(ifname.as_str()).ok().map(IfIndex)
}

/// Returns whether an interface of this namespace has the MAC. Pods on ipvlan have their node's MAC, so a frame with it
/// may come from any of them.
pub(super) fn is_nodes(mac: Mac) -> bool {
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else { return true };
    interfaces.any(|interface| {
        let address = interface.address.as_ref().and_then(nix::sys::socket::SockaddrStorage::as_link_addr);
        address.is_some_and(|address| address.addr() == Some(mac.0))
    })
}
