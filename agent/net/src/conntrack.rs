//! Flushing the tracked connections of addresses (ctnetlink).
//!
//! An entry outlives the container it was made for. A packet filter would take packets of a newer container for the old
//! one's established connection, and check the first ones against the old one's sequence numbers.

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
    errno::errno,
    error::NetError,
    netlink::{Intent, NODE, Request, Socket},
    sysctl::Sysctl,
};

/// Entries deleted with one `send`: their acknowledgements fit into the socket's buffer.
const BATCH: usize = 64;
/// Entries kept from one dump before they are deleted, so that an address with a hundred thousand entries costs little
/// memory.
const PASS: usize = 1024;
/// The largest number of dumps, in case new entries come as fast as old ones are deleted.
const PASSES: usize = 256;

/// `IPCTNL_MSG_CT_GET`.
const GET: u8 = 1;

/// `CTA_ID`: identifies the entry that was read; a newer entry may have the same ports.
const ID: u16 = 12;
/// `CTA_ZONE`: entries of other zones may have the same ports.
const ZONE: u16 = 18;
/// `CTA_FILTER` with `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`: the fields of the request's two tuples that
/// an entry has to match. Older kernels than Linux 5.8 ignore it, so each entry is compared here too.
const FILTER: u16 = 25;
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Bits of those flags: the fields of a tuple.
const SOURCE: u32 = 1 << 0;
const DESTINATION: u32 = 1 << 1;

/// Deletes the entries that have one of the addresses as source or destination of either direction, and returns their
/// number.
pub(super) fn flush(addresses: &HashSet<IpAddr>) -> Result<usize, NetError> {
    // A dump would make a kernel that tracks nothing load the module.
    let count = Sysctl::new("netfilter/nf_conntrack_count").get()?;
    if count.as_deref().unwrap_or("0") == "0" {
        return Ok(0);
    }
    let outcome = Socket::open_protocol(NETLINK_NETFILTER, NODE).and_then(|socket| {
        let dumps = dumps(addresses);
        dumps.iter().try_fold(0, |flushed, dump| Ok(flushed + flush_found(&socket, dump, addresses)?))
    });
    match outcome {
        Err(NetError::Refused { source, .. } | NetError::Socket { source, .. }) if is_unsupported(&source) => {
            static LOGGED: AtomicBool = AtomicBool::new(false);
            if !LOGGED.swap(true, Ordering::Relaxed) {
                tracing::debug!(error = %source, "the kernel has no ctnetlink; tracked connections are not flushed");
            }
            Ok(0)
        }
        outcome => outcome,
    }
}

/// Returns true if the error means that the kernel has no ctnetlink.
fn is_unsupported(error: &std::io::Error) -> bool {
    matches!(errno(error), Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP))
}

/// Returns the dump requests. An IPv4 address takes four, one for each field that it can stand in, because an entry has
/// to match all fields of a filter. IPv6 takes one without a filter: there the kernel's filter (as of Linux 6.18) is
/// inverted.
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
    // Plain attributes, because `ConntrackAttribute::Other` drops the flag NLA_F_NESTED, which the kernel requires
    // here.
    let inner = NetfilterMessageInner::Other { subsys: NetfilterSubsystem::Conntrack, message_type: GET, attributes };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

/// Returns the attributes that select entries with the address in this field of the tuple.
fn filter(tuple: fn(Vec<Tuple>) -> ConntrackAttribute, address: Ipv4Addr, field: u32) -> Vec<DefaultNla> {
    let end = |of: u32| if field == of { address.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let ends = vec![IPTuple::SourceAddress(end(SOURCE)), IPTuple::DestinationAddress(end(DESTINATION))];
    let tuple = tuple(vec![Tuple::Ip(ends)]);
    let mut value = vec![0; tuple.value_len()];
    tuple.emit_value(&mut value);
    let original = matches!(tuple, ConntrackAttribute::CtaTupleOrig(_));
    let flags =
        if original { [(FILTER_ORIG, field), (FILTER_REPLY, 0)] } else { [(FILTER_ORIG, 0), (FILTER_REPLY, field)] };
    let flags = flags.map(|(kind, flags)| DefaultNla::new(kind, flags.to_ne_bytes().to_vec()));
    let flags = flags.as_slice();
    let mut filter = vec![0; flags.buffer_len()];
    flags.emit(&mut filter);
    vec![DefaultNla::new(tuple.kind() | NLA_F_NESTED, value), DefaultNla::new(FILTER | NLA_F_NESTED, filter)]
}

/// Deletes the entries of a dump that have one of the addresses, and returns their number.
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
        let mut deletes =
            found.into_iter().map(|message| Request::new(Intent::Remove, message, "delete a tracked connection"));
        loop {
            let batch: Vec<_> = deletes.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            socket.commit(batch)?;
        }
        if last {
            break;
        }
    }
    Ok(flushed)
}

/// Returns the messages that delete the entries of a dump that have one of the addresses, at most [`PASS`].
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
            && let Some(key) = key(attributes)
        {
            let header = NetfilterHeader::new(message.header.family, 0, 0);
            found.push(NetfilterMessage::new(header, ConntrackMessage::Delete(key)));
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

/// Returns the attributes that identify an entry; `None` for an entry without its tuple, because a delete request
/// without a tuple deletes all entries.
fn key(attributes: Vec<ConntrackAttribute>) -> Option<Vec<ConntrackAttribute>> {
    let is_tuple = |attribute: &ConntrackAttribute| matches!(attribute, ConntrackAttribute::CtaTupleOrig(_));
    attributes.iter().any(is_tuple).then(|| {
        let is_key = |attribute: &ConntrackAttribute| is_tuple(attribute) || matches!(attribute.kind(), ID | ZONE);
        attributes.into_iter().filter(is_key).collect()
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
    fn an_entry_matches_by_either_end_of_either_direction() {
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
    fn a_delete_request_always_identifies_its_entry() {
        let original = ConntrackAttribute::CtaTupleOrig(tuple("192.0.2.1", "192.0.2.9"));
        let reply = ConntrackAttribute::CtaTupleReply(tuple("192.0.2.9", "192.0.2.1"));
        let id = ConntrackAttribute::Other(DefaultNla::new(ID, vec![1, 2, 3, 4]));
        let zone = ConntrackAttribute::Other(DefaultNla::new(ZONE, vec![0, 7]));
        assert_eq!(key(vec![reply.clone(), id.clone(), zone.clone()]), None);
        let found = key(vec![original.clone(), reply, id.clone(), ConntrackAttribute::CtaMark(1), zone.clone()]);
        assert_eq!(found, Some(vec![original, id, zone]));
    }
}
