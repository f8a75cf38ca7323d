//! Making, finding and removing a pod's veth pair. All of this blocks.

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
    LinkSpec, NetError, Netns, PodLink,
    message::{LinkAttrs, set_link},
    netlink::{Intent, Reply, Request, Socket},
    sysctl, wait_for,
};

/// What `ip link show` says about a link of ours: `holdfast <container> <interface> <namespace>/<pod>`. It is also
/// what adoption reads after a restart, so its form is part of the on-disk state.
const ALIAS: &str = "holdfast";
/// The kernel's IFALIASZ, less the closing zero byte.
const ALIAS_MAX: usize = 255;

/// Makes the pair: the host end here and up, the pod end directly in the pod's namespace under its final name. (The
/// kernel cannot bring an end up before it has its peer; the pod end comes up when it is configured.)
/// A link that an earlier ADD of the same container made is taken over as it is.
pub(super) fn create(node: &Socket, spec: &LinkSpec) -> Result<PodLink, NetError> {
    let host_name = spec.container.host_link(&spec.ifname);
    let netns = Netns::open(&spec.netns)?;
    match make(node, spec, &host_name, &netns)? {
        Made::New(attrs) => finish(spec, host_name, &attrs),
        Made::Exists(attrs) if has_peer_in(&attrs, spec, &netns)? => finish(spec, host_name, &attrs),
        Made::Exists(attrs) => {
            // The name derives from the container alone, so this is the same container's link into a namespace
            // that it no longer has.
            remove(node, attrs.index)?;
            match make(node, spec, &host_name, &netns)? {
                Made::New(attrs) => finish(spec, host_name, &attrs),
                Made::Exists(_) => Err(node.refused(&words(spec, &host_name), io::ErrorKind::AlreadyExists.into())),
            }
        }
    }
}

enum Made {
    New(LinkAttrs),
    Exists(LinkAttrs),
}

/// One `send` for all: make, name its owner, bring up, read back its numbers.
fn make(node: &Socket, spec: &LinkSpec, host_name: &IfName, netns: &Netns) -> Result<Made, NetError> {
    let requests = [
        Request::new(Intent::Create, new_link(spec, host_name, netns), words(spec, host_name)),
        set_link(description(spec, host_name), format!("describe interface {host_name}")),
        set_link(LinkUnspec::new_with_name(host_name.as_str()).up().build(), format!("bring up {host_name}")),
        Request::new(Intent::Change, LinkAttrs::get(host_name), format!("read interface {host_name}")),
    ];
    let mut replies = node.exchange(&requests)?;
    let exists = replies[0].errno() == Some(libc::EEXIST);
    let attrs = replies[3].messages.iter().find_map(LinkAttrs::parse);
    match attrs {
        Some(attrs) if exists => Ok(Made::Exists(attrs)),
        // The host end is not there, so it is the pod end's name that is taken.
        None if exists => {
            Err(NetError::NameTaken { pod: spec.pod.clone(), ifname: spec.ifname.clone(), netns: spec.netns.clone() })
        }
        attrs => {
            let made = replies[0].error.is_none();
            let first_error =
                replies.iter_mut().zip(&requests).find_map(|(reply, request)| failure(node, reply, request));
            match (first_error, attrs) {
                (None, Some(attrs)) => Ok(Made::New(attrs)),
                (error, attrs) => {
                    // Half a link is none. One that this request did not make is the container's, and stays.
                    if let Some(attrs) = attrs.filter(|_| made) {
                        remove(node, attrs.index)?;
                    }
                    Err(error.unwrap_or_else(|| node.refused(&words(spec, host_name), io::ErrorKind::NotFound.into())))
                }
            }
        }
    }
}

fn failure(node: &Socket, reply: &mut Reply, request: &Request) -> Option<NetError> {
    reply.error.take().map(|source| node.refused(request.what(), source))
}

fn words(spec: &LinkSpec, host_name: &IfName) -> String {
    format!(
        "make interface {} of pod {} in {} with its host end {host_name}",
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

/// The alias; and no link-local address for the host end: the pod never needs one, and without it there is
/// neither duplicate address detection nor multicast chatter on every link.
fn description(spec: &LinkSpec, host_name: &IfName) -> rtnetlink::packet_route::link::LinkMessage {
    let generate_none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkUnspec::new_with_name(host_name.as_str())
        .alias(alias(spec))
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![generate_none])]))
        .build()
}

/// The link as the caller knows it.
fn finish(spec: &LinkSpec, host_name: IfName, attrs: &LinkAttrs) -> Result<PodLink, NetError> {
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

/// Whether the host end found leads to the pod's interface in this very namespace.
fn has_peer_in(host: &LinkAttrs, spec: &LinkSpec, netns: &Netns) -> Result<bool, NetError> {
    let host_name = spec.container.host_link(&spec.ifname);
    let peer = find(&netns.socket()?, &spec.ifname)?;
    Ok(peer.is_some_and(|peer| Some(peer.index) == host.peer && peer.mac == Some(Mac::of_pod(&host_name))))
}

/// An interface by name; `None` if there is none.
pub(super) fn find(socket: &Socket, name: &IfName) -> Result<Option<LinkAttrs>, NetError> {
    read(socket, LinkAttrs::get(name), &format!("read interface {name}"))
}

/// An interface by number; `None` if there is none.
pub(super) fn find_index(socket: &Socket, index: u32) -> Result<Option<LinkAttrs>, NetError> {
    read(socket, LinkAttrs::get_index(index), &format!("read interface {index}"))
}

fn read(socket: &Socket, message: RouteNetlinkMessage, what: &str) -> Result<Option<LinkAttrs>, NetError> {
    let requests = [Request::new(Intent::Change, message, what)];
    let reply = socket.exchange(&requests)?.pop().unwrap_or_default();
    match (reply.errno(), reply.error) {
        (Some(libc::ENODEV), _) => Ok(None),
        (_, Some(error)) => Err(socket.refused(what, error)),
        (_, None) => Ok(reply.messages.iter().find_map(LinkAttrs::parse)),
    }
}

/// Waits until the host end sends. It came up before its peer did, so it gets its carrier later, and a worker of the
/// kernel has to notice that (linkwatch); until then what is sent to the pod is dropped. Mostly that has happened
/// when this is called; behind a namespace that is being taken apart it takes milliseconds.
pub(super) fn wait_until_running(socket: &Socket, index: u32) -> Result<(), NetError> {
    let runs = || Ok(find_index(socket, index)?.is_none_or(|attrs| attrs.running));
    if !wait_for(runs)? {
        tracing::warn!(index, "a pod's link has no carrier yet; its first packets may be lost");
    }
    Ok(())
}

/// Removes an interface, with its peer. It returns when the kernel has unregistered both, some 20 ms later.
pub(super) fn remove(socket: &Socket, index: u32) -> Result<(), NetError> {
    let link = LinkUnspec::new_with_index(index).build();
    socket.commit(vec![Request::new(
        Intent::Remove,
        RouteNetlinkMessage::DelLink(link),
        format!("remove link {index}"),
    )])
}

/// The text for the kernel's alias, cut to what it takes. A pod's name that does not fit is left out whole.
fn alias(spec: &LinkSpec) -> String {
    let mut text = format!("{ALIAS} {} {}", spec.container, spec.ifname);
    let pod = spec.pod.to_string();
    if text.len() + 1 + pod.len() <= ALIAS_MAX {
        text = format!("{text} {pod}");
    }
    text.truncate(ALIAS_MAX);
    text
}

/// Who a link belongs to, from its alias; `None` for a link that is not ours.
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
    fn the_alias_tells_the_owner() {
        let spec = spec("demo-0");
        let (container, ifname, pod) = owner(&alias(&spec)).unwrap();
        assert_eq!((container, ifname, pod), (spec.container, spec.ifname, Some(spec.pod)));
        assert_eq!(owner("somebody else's"), None);
        assert_eq!(owner("holdfast"), None);
        assert_eq!(owner(""), None);
    }

    #[test]
    fn a_name_too_long_for_the_alias_is_left_out() {
        let spec = spec(&"p".repeat(253));
        assert!(alias(&spec).len() <= ALIAS_MAX);
        assert_eq!(owner(&alias(&spec)), Some((spec.container, spec.ifname, None)));
    }
}
