//! The numbers that all rtnetlink messages of this crate share.

use std::net::IpAddr;

use rtnetlink::packet_route::{AddressFamily, route::RouteProtocol};

/// The value of `RTA_PROTOCOL` and `NDA_PROTOCOL` on routes, neighbours and proxies of ours: `ip route show proto 72`
/// lists them. Neither `linux/rtnetlink.h` nor the table of iproute2 assigns it.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x48);

/// Returns the address family of an address.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
