//! Creating and deleting a pod's veth pair. All functions block.

use std::io;

use holdfast_core::{
    id::{ContainerId, IfIndex, IfName, PodName},
    mac::Mac,
};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        RouteNetlinkMessage,
        link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute},
    },
};

use super::{
    error::NetError,
    link::{LinkSpec, PodLink},
    link_attrs::{LinkAttrs, set_link},
    netlink::{Intent, Reply, Request, Socket},
    netns::Netns,
    poll::poll_until,
    sysctl,
};

/// The first word of the alias of our links: `holdfast <container> <interface> <namespace>/<pod>`. The agent reads the
/// alias after a restart, so its form is an interface between versions.
const ALIAS: &str = "holdfast";
/// The kernel's IFALIASZ without the terminating zero byte.
const ALIAS_MAX: usize = 255;

/// Creates the pair: the host end here and up, the pod end directly in the pod's namespace under its final name. The
/// pod end comes up when it is configured, because the kernel brings no end up before its peer exists. A link that an
/// earlier ADD of the same container created is returned as it is.
pub(super) fn create(node: &Socket, spec: &LinkSpec) -> Result<PodLink, NetError> {
    let host_name = spec.container.host_link(&spec.ifname);
    let netns = Netns::open(&spec.netns)?;
    match try_create(node, spec, &host_name, &netns)? {
        Outcome::Created(attrs) => pod_link(spec, host_name, &attrs),
        Outcome::Exists(attrs) if has_peer_in(&attrs, spec, &netns)? => pod_link(spec, host_name, &attrs),
        Outcome::Exists(attrs) => {
            // The name derives from the container alone, so this is the same container's link into a namespace
            // that it no longer has.
            remove(node, attrs.index)?;
            match try_create(node, spec, &host_name, &netns)? {
                Outcome::Created(attrs) => pod_link(spec, host_name, &attrs),
                Outcome::Exists(_) => {
                    Err(node.refused(&describe(spec, &host_name), io::ErrorKind::AlreadyExists.into()))
                }
            }
        }
    }
}

enum Outcome {
    Created(LinkAttrs),
    Exists(LinkAttrs),
}

/// Creates the pair, sets its alias, brings the host end up and reads its attributes, all in one `send`.
fn try_create(node: &Socket, spec: &LinkSpec, host_name: &IfName, netns: &Netns) -> Result<Outcome, NetError> {
    let requests = [
        Request::new(Intent::Create, new_link(spec, host_name, netns), describe(spec, host_name)),
        set_link(host_end(spec, host_name), format!("set the alias of interface {host_name}")),
        set_link(LinkUnspec::new_with_name(host_name.as_str()).up().build(), format!("bring up {host_name}")),
        Request::new(Intent::Change, LinkAttrs::get(host_name), format!("read interface {host_name}")),
    ];
    let mut replies = node.exchange(&requests)?;
    let exists = replies[0].errno() == Some(libc::EEXIST);
    let attrs = replies[3].messages.iter().find_map(LinkAttrs::parse);
    match attrs {
        Some(attrs) if exists => Ok(Outcome::Exists(attrs)),
        // There is no host end of that name, so the pod end's name is the one that exists.
        None if exists => {
            Err(NetError::NameTaken { pod: spec.pod.clone(), ifname: spec.ifname.clone(), netns: spec.netns.clone() })
        }
        attrs => {
            let is_created = replies[0].error.is_none();
            let first_error =
                replies.iter_mut().zip(&requests).find_map(|(reply, request)| failure(node, reply, request));
            match (first_error, attrs) {
                (None, Some(attrs)) => Ok(Outcome::Created(attrs)),
                (error, attrs) => {
                    // Undo a link that is only half set up. One that this request did not create stays.
                    if let Some(attrs) = attrs.filter(|_| is_created) {
                        remove(node, attrs.index)?;
                    }
                    let missing = || node.refused(&describe(spec, host_name), io::ErrorKind::NotFound.into());
                    Err(error.unwrap_or_else(missing))
                }
            }
        }
    }
}

fn failure(node: &Socket, reply: &mut Reply, request: &Request) -> Option<NetError> {
    reply.error.take().map(|source| node.refused(request.what(), source))
}

fn describe(spec: &LinkSpec, host_name: &IfName) -> String {
    format!(
        "create interface {} of pod {} in {} with its host end {host_name}",
        spec.ifname,
        spec.pod,
        spec.netns.display()
    )
}

fn new_link(spec: &LinkSpec, host_name: &IfName, netns: &Netns) -> RouteNetlinkMessage {
    let mut peer = LinkUnspec::new_with_name(spec.ifname.as_str())
        .address(Mac::of_pod(host_name).0.to_vec())
        .setns_by_fd(netns.raw_fd());
    let mut link =
        LinkMessageBuilder::<LinkVeth>::new(host_name.as_str(), "").address(Mac::of_host(host_name).0.to_vec());
    if let Some(mtu) = spec.mtu {
        peer = peer.mtu(mtu);
        link = link.mtu(mtu);
    }
    RouteNetlinkMessage::NewLink(link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build())
}

/// Returns the host end's alias and address generation mode. The host end gets no IPv6 link-local address: the pod does
/// not need one, and without it there is neither duplicate address detection nor multicast traffic on each link.
fn host_end(spec: &LinkSpec, host_name: &IfName) -> rtnetlink::packet_route::link::LinkMessage {
    let generate_none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkUnspec::new_with_name(host_name.as_str())
        .alias(alias(spec))
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![generate_none])]))
        .build()
}

/// Sets the host end's sysctls and returns the link.
fn pod_link(spec: &LinkSpec, host_name: IfName, attrs: &LinkAttrs) -> Result<PodLink, NetError> {
    sysctl::prepare_host_end(host_name.as_str())?;
    Ok(PodLink {
        host_index: IfIndex(attrs.index),
        host_mac: Mac::of_host(&host_name),
        pod_index: IfIndex(attrs.peer.unwrap_or_default()),
        pod_mac: Mac::of_pod(&host_name),
        mtu: attrs.mtu,
        host_name,
        spec: spec.clone(),
    })
}

/// Returns true if the peer of the host end is the pod's interface in this namespace.
fn has_peer_in(host: &LinkAttrs, spec: &LinkSpec, netns: &Netns) -> Result<bool, NetError> {
    let host_name = spec.container.host_link(&spec.ifname);
    let peer = LinkAttrs::find(&netns.socket()?, &spec.ifname)?;
    Ok(peer.is_some_and(|peer| Some(peer.index) == host.peer && peer.mac == Some(Mac::of_pod(&host_name))))
}

/// Waits until the host end is running. It came up before its peer, so it got its carrier later, and packets to the pod
/// are dropped until a worker of the kernel (linkwatch) has noticed the carrier. That has mostly happened before this
/// call; while the kernel destroys a namespace it takes milliseconds.
pub(super) fn wait_until_running(socket: &Socket, index: u32) -> Result<(), NetError> {
    let is_running = || Ok(LinkAttrs::find_index(socket, index)?.is_none_or(|attrs| attrs.running));
    if !poll_until(is_running)? {
        tracing::warn!(index, "the host end of a pod's link is not running yet; its first packets may be lost");
    }
    Ok(())
}

/// Deletes an interface and its peer. Returns when the kernel has unregistered both, after some 20 ms.
pub(super) fn remove(socket: &Socket, index: u32) -> Result<(), NetError> {
    let link = LinkUnspec::new_with_index(index).build();
    socket.commit(vec![Request::new(
        Intent::Remove,
        RouteNetlinkMessage::DelLink(link),
        format!("delete interface {index}"),
    )])
}

/// Returns the alias of a link, of at most [`ALIAS_MAX`] bytes. A pod's name that does not fit is left out as a whole.
fn alias(spec: &LinkSpec) -> String {
    let mut text = format!("{ALIAS} {} {}", spec.container, spec.ifname);
    let pod = spec.pod.to_string();
    if text.len() + 1 + pod.len() <= ALIAS_MAX {
        text = format!("{text} {pod}");
    }
    text.truncate(ALIAS_MAX);
    text
}

/// Returns container, interface and pod of a link, read from its alias; `None` for a link that is not ours. The pod is
/// absent if its name did not fit.
pub(super) fn owner(alias: &str) -> Option<(ContainerId, IfName, Option<PodName>)> {
    let mut words = alias.split(' ');
    if words.next() != Some(ALIAS) {
        return None;
    }
    let container = words.next()?.parse().ok()?;
    let ifname = words.next()?.parse().ok()?;
    let pod = words.next().and_then(|pod| pod.split_once('/')).map(|(namespace, name)| PodName::new(namespace, name));
    Some((container, ifname, pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(pod: &str) -> LinkSpec {
        LinkSpec {
            container: "c".repeat(64).parse().unwrap(),
            pod: PodName::new("default", pod),
            netns: "/run/netns/x".into(),
            ifname: "eth0".parse().unwrap(),
            mtu: None,
        }
    }

    #[test]
    fn the_owner_is_read_from_the_alias() {
        let spec = spec("demo-0");
        let (container, ifname, pod) = owner(&alias(&spec)).unwrap();
        assert_eq!((container, ifname, pod), (spec.container, spec.ifname, Some(spec.pod)));
        assert_eq!(owner("another program's"), None);
        assert_eq!(owner("holdfast"), None);
        assert_eq!(owner(""), None);
    }

    #[test]
    fn a_pod_name_too_long_for_the_alias_is_left_out() {
        let spec = spec(&"p".repeat(253));
        assert!(alias(&spec).len() <= ALIAS_MAX);
        assert_eq!(owner(&alias(&spec)), Some((spec.container, spec.ifname, None)));
    }
}
