//! Connections that the node tracks for its packet filter (ctnetlink), as far as they are an address's.
//!
//! An entry outlives the container it was made for: a filter would take a newer container's packets for the old one's
//! established connection, and hold its first ones against the old one's sequence numbers.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, Tuple},
};
use rtnetlink::{
    packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla},
    sys::protocols::NETLINK_NETFILTER,
};

use super::{
    NODE, NetError,
    netlink::{Intent, Request, Socket, errno},
    sysctl::Sysctl,
};

/// Entries removed with one `send`: their acknowledgements fit into the socket's buffer.
const AT_ONCE: usize = 64;
/// Entries read before some are removed, so that an address with a hundred thousand of them is no load on memory.
const PASS: usize = 1024;
/// And no more than this often, should entries come as fast as they go.
const PASSES: usize = 256;

/// `IPCTNL_MSG_CT_GET`.
const GET: u8 = 1;

/// `CTA_ID`: that the entry is the one which was read, and not one made since for the same ports.
const ID: u16 = 12;
/// `CTA_ZONE`: entries of other zones may be of the same ports.
const ZONE: u16 = 18;
/// `CTA_FILTER`, in it `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`: which fields of the two tuples in the
/// request an entry has to have. Since Linux 5.8; what comes is compared here in any case.
const FILTER: u16 = 25;
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Bits of those flags: places in a tuple.
const SOURCE: u32 = 1 << 0;
const DESTINATION: u32 = 1 << 1;

/// Removes the entries which have one of the addresses as a source or destination of either direction. Gives how many.
pub(super) fn flush(addresses: &HashSet<IpAddr>) -> Result<usize, NetError> {
    // Asking a kernel that tracks nothing would make it load the module.
    let count = Sysctl::new("netfilter/nf_conntrack_count").get()?;
    if count.as_deref().unwrap_or("0") == "0" {
        return Ok(0);
    }
    let outcome = Socket::open_protocol(NETLINK_NETFILTER, NODE).and_then(|socket| {
        let dumps = dumps(addresses);
        dumps.iter().try_fold(0, |flushed, dump| Ok(flushed + flush_found(&socket, dump, addresses)?))
    });
    match outcome {
        Err(NetError::Refused { source, .. } | NetError::Socket { source, .. }) if is_unknown(&source) => {
            static SAID: AtomicBool = AtomicBool::new(false);
            if !SAID.swap(true, Ordering::Relaxed) {
                tracing::debug!(error = %source, "this kernel tells nothing of tracked connections: none are removed");
            }
            Ok(0)
        }
        outcome => outcome,
    }
}

/// Whether the kernel has no ctnetlink.
fn is_unknown(error: &std::io::Error) -> bool {
    matches!(errno(error), Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP))
}

/// What the kernel is asked for: four times for an IPv4 address, once for each place that it can have in an entry,
/// because of what is named in one filter an entry has to have all. IPv6 is read as a whole: there the kernel's filter (as
/// of Linux 6.18) gives what does not match, and leaves out what does.
fn dumps(addresses: &HashSet<IpAddr>) -> Vec<NetfilterMessage> {
    let filtered = |address: &IpAddr| match *address {
        IpAddr::V4(address) => {
            let tuples: [fn(_) -> _; 2] = [ConntrackAttribute::CtaTupleOrig, ConntrackAttribute::CtaTupleReply];
            tuples
                .into_iter()
                .flat_map(|tuple| [filter(tuple, address, SOURCE), filter(tuple, address, DESTINATION)])
                .collect()
        }
        IpAddr::V6(_) => Vec::new(),
    };
    let v4 = addresses.iter().flat_map(filtered).map(|attributes| get(NetfilterProtoFamily::IPv4, attributes));
    let v6 = addresses.iter().any(IpAddr::is_ipv6).then(|| get(NetfilterProtoFamily::IPv6, Vec::new()));
    v4.chain(v6).collect()
}

fn get(family: NetfilterProtoFamily, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    // In plain attributes: `ConntrackAttribute::Other` loses the mark of a nest, on which the kernel insists here.
    let inner = NetfilterMessageInner::Other { subsys: NetfilterSubsystem::Conntrack, message_type: GET, attributes };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

/// Those entries whose tuple has the address in this place.
fn filter(tuple: fn(Vec<Tuple>) -> ConntrackAttribute, address: Ipv4Addr, place: u32) -> Vec<DefaultNla> {
    let end = |of: u32| if place == of { address.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let ends = vec![IPTuple::SourceAddress(end(SOURCE)), IPTuple::DestinationAddress(end(DESTINATION))];
    let tuple = tuple(vec![Tuple::Ip(ends)]);
    let mut value = vec![0; tuple.value_len()];
    tuple.emit_value(&mut value);
    let original = matches!(tuple, ConntrackAttribute::CtaTupleOrig(_));
    let flags =
        if original { [(FILTER_ORIG, place), (FILTER_REPLY, 0)] } else { [(FILTER_ORIG, 0), (FILTER_REPLY, place)] };
    let flags = flags.map(|(kind, flags)| DefaultNla::new(kind, flags.to_ne_bytes().to_vec()));
    let flags = flags.as_slice();
    let mut filter = vec![0; flags.buffer_len()];
    flags.emit(&mut filter);
    vec![DefaultNla::new(tuple.kind() | NLA_F_NESTED, value), DefaultNla::new(FILTER | NLA_F_NESTED, filter)]
}

/// Removes what a dump gives and has one of the addresses.
fn flush_found(
    socket: &Socket<NetfilterMessage>,
    dump: &NetfilterMessage,
    addresses: &HashSet<IpAddr>,
) -> Result<usize, NetError> {
    let mut flushed = 0;
    for _ in 0..PASSES {
        let found = find(socket, dump, addresses)?;
        flushed += found.len();
        let last = found.len() < PASS;
        let mut removals =
            found.into_iter().map(|message| Request::new(Intent::Remove, message, "forget a connection"));
        loop {
            let some: Vec<_> = removals.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            socket.commit(some)?;
        }
        if last {
            break;
        }
    }
    Ok(flushed)
}

/// The messages that remove the entries which a dump gives and that have one of the addresses: of the first [`PASS`].
fn find(
    socket: &Socket<NetfilterMessage>,
    dump: &NetfilterMessage,
    addresses: &HashSet<IpAddr>,
) -> Result<Vec<NetfilterMessage>, NetError> {
    let mut found = Vec::new();
    socket.for_each(dump, "list tracked connections", |message| {
        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner
            && found.len() < PASS
            && attributes.iter().any(|attribute| has_one_of(attribute, addresses))
            && let Some(named) = name(attributes)
        {
            let header = NetfilterHeader::new(message.header.family, 0, 0);
            found.push(NetfilterMessage::new(header, ConntrackMessage::Delete(named)));
        }
    })?;
    Ok(found)
}

fn has_one_of(attribute: &ConntrackAttribute, addresses: &HashSet<IpAddr>) -> bool {
    let (ConntrackAttribute::CtaTupleOrig(tuple) | ConntrackAttribute::CtaTupleReply(tuple)) = attribute else {
        return false;
    };
    let ends = tuple.iter().filter_map(|part| if let Tuple::Ip(ends) = part { Some(ends) } else { None });
    ends.flatten().any(|end| match end {
        IPTuple::SourceAddress(address) | IPTuple::DestinationAddress(address) => addresses.contains(address),
        _ => false,
    })
}

/// The attributes by which an entry is found again. Without its tuple there is no name: a removal that has none would
/// remove everything.
fn name(attributes: Vec<ConntrackAttribute>) -> Option<Vec<ConntrackAttribute>> {
    let is_tuple = |attribute: &ConntrackAttribute| matches!(attribute, ConntrackAttribute::CtaTupleOrig(_));
    attributes.iter().any(is_tuple).then(|| {
        let names = |attribute: &ConntrackAttribute| is_tuple(attribute) || matches!(attribute.kind(), ID | ZONE);
        attributes.into_iter().filter(names).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, destination: &str) -> Vec<Tuple> {
        vec![Tuple::Ip(vec![
            IPTuple::SourceAddress(source.parse().unwrap()),
            IPTuple::DestinationAddress(destination.parse().unwrap()),
        ])]
    }

    #[test]
    fn either_end_of_either_direction_counts() {
        let addresses = HashSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        for (source, destination, counts) in [
            ("192.0.2.1", "192.0.2.9", true),
            ("192.0.2.9", "192.0.2.1", true),
            ("2001:db8::9", "2001:db8::1", true),
            ("192.0.2.8", "192.0.2.9", false),
        ] {
            for attribute in [ConntrackAttribute::CtaTupleOrig, ConntrackAttribute::CtaTupleReply] {
                assert_eq!(has_one_of(&attribute(tuple(source, destination)), &addresses), counts, "{source}");
            }
        }
        assert!(!has_one_of(&ConntrackAttribute::CtaMark(1), &addresses));
    }

    #[test]
    fn a_removal_always_names_its_entry() {
        let original = ConntrackAttribute::CtaTupleOrig(tuple("192.0.2.1", "192.0.2.9"));
        let reply = ConntrackAttribute::CtaTupleReply(tuple("192.0.2.9", "192.0.2.1"));
        let id = ConntrackAttribute::Other(DefaultNla::new(ID, vec![1, 2, 3, 4]));
        let zone = ConntrackAttribute::Other(DefaultNla::new(ZONE, vec![0, 7]));
        assert_eq!(name(vec![reply.clone(), id.clone(), zone.clone()]), None);
        let named = name(vec![original.clone(), reply, id.clone(), ConntrackAttribute::CtaMark(1), zone.clone()]);
        assert_eq!(named, Some(vec![original, id, zone]));
    }
}
