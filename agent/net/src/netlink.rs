//! A blocking netlink socket that sends many requests at once. It is an rtnetlink socket unless its type says
//! otherwise.
//!
//! The kernel carries out rtnetlink requests inside `send`, under the RTNL mutex, so an asynchronous socket would block
//! the runtime's thread as well. Therefore all functions block and run on blocking threads, and requests that belong
//! together go out in one `send`.

use std::{io, marker::PhantomData, time::Duration};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};
use rtnetlink::{
    packet_core::{
        DefaultNla, ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE,
        NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla,
        NlasIterator, Parseable,
    },
    packet_route::RouteNetlinkMessage,
    sys::{self, protocols::NETLINK_ROUTE},
};

use super::{
    errno::{errno, explained},
    error::NetError,
};

/// The place of the node's sockets, for messages.
pub(super) const NODE: &str = "on this node";

/// Larger than the kernel's datagrams of a dump (32 KiB).
const RECEIVE_BUFFER: usize = 64 << 10;
/// Acknowledgements are queued before `send` returns, so a healthy kernel never reaches this timeout.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest number of reads of a dump that other changes interrupt.
const DUMP_TRIES: usize = 4;

/// The treatment of an object that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Create it; an existing one is an error.
    Create,
    /// Create it, or leave the existing one as it is.
    Ensure,
    /// Create it, or change the existing one.
    Replace,
    /// Change or read an existing one.
    Change,
    /// Remove it; a missing one is no error.
    Remove,
}

/// The messages of a netlink protocol.
pub(super) trait Protocol: NetlinkSerializable + NetlinkDeserializable + Clone {}

impl<M: NetlinkSerializable + NetlinkDeserializable + Clone> Protocol for M {}

/// One request, with its description for errors.
#[derive(Debug)]
pub(super) struct Request<M = RouteNetlinkMessage> {
    message: M,
    intent: Intent,
    what: String,
}

impl<M> Request<M> {
    pub(super) fn new(intent: Intent, message: M, what: impl Into<String>) -> Self {
        Self { message, intent, what: what.into() }
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    fn flags(&self) -> u16 {
        NLM_F_REQUEST
            | NLM_F_ACK
            | match self.intent {
                Intent::Create | Intent::Ensure => NLM_F_CREATE | NLM_F_EXCL,
                Intent::Replace => NLM_F_CREATE | NLM_F_REPLACE,
                Intent::Change | Intent::Remove => 0,
            }
    }

    /// Returns true if the errno means that the wanted state is there already.
    fn is_satisfied_by(&self, errno: i32) -> bool {
        match self.intent {
            Intent::Ensure => errno == libc::EEXIST,
            Intent::Remove => matches!(errno, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL),
            Intent::Create | Intent::Replace | Intent::Change => false,
        }
    }
}

/// The kernel's reply to one request.
#[derive(Debug)]
pub(super) struct Reply<M = RouteNetlinkMessage> {
    pub(super) messages: Vec<M>,
    pub(super) error: Option<io::Error>,
}

impl<M> Default for Reply<M> {
    fn default() -> Self {
        Self { messages: Vec::new(), error: None }
    }
}

impl<M> Reply<M> {
    pub(super) fn errno(&self) -> Option<i32> {
        self.error.as_ref().and_then(errno)
    }
}

/// A netlink socket. It stays in the namespace that it was opened in.
pub(super) struct Socket<M = RouteNetlinkMessage> {
    kernel: sys::Socket,
    /// [`NODE`] or "in /run/netns/…", for messages.
    place: String,
    speaks: PhantomData<M>,
}

impl Socket {
    /// Opens an rtnetlink socket in the calling thread's network namespace.
    pub(super) fn open(place: impl Into<String>) -> Result<Self, NetError> {
        Self::open_protocol(NETLINK_ROUTE, place)
    }
}

impl<M: Protocol> Socket<M> {
    /// Opens a socket of a netlink protocol in the calling thread's network namespace.
    pub(super) fn open_protocol(protocol: isize, place: impl Into<String>) -> Result<Self, NetError> {
        let open = || -> io::Result<sys::Socket> {
            let mut socket = sys::Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&sys::SocketAddr::new(0, 0))?;
            // The kernel explains its errors in text, and does not send our own request back.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Kernels before 4.20 do not filter dumps, so the results are filtered here too.
            let _ = socket.set_netlink_get_strict_chk(true);
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(RECEIVE_TIMEOUT.as_secs().cast_signed()))?;
            Ok(socket)
        };
        let kernel = open().map_err(socket_error)?;
        Ok(Self { kernel, place: place.into(), speaks: PhantomData })
    }

    /// Carries out all requests, in order, and returns the first error. The kernel goes on after a request that failed,
    /// so the caller has to undo all of them.
    pub(super) fn commit(&self, requests: Vec<Request<M>>) -> Result<(), NetError> {
        self.exchange(&requests)?.into_iter().zip(requests).try_for_each(|(reply, request)| match reply.error {
            Some(source) => Err(self.refused(&request.what, source)),
            None => Ok(()),
        })
    }

    /// Carries out all requests, in order, and returns the reply to each. A reply has no error if the wanted state was
    /// there already.
    pub(super) fn exchange(&self, requests: &[Request<M>]) -> Result<Vec<Reply<M>>, NetError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.send(requests.iter().map(|request| (request.message.clone(), request.flags()))).map_err(socket_error)?;
        let mut replies: Vec<_> = requests.iter().map(|_| Reply::default()).collect();
        let mut open = requests.len();
        while open > 0 {
            for message in self.receive().map_err(socket_error)? {
                let Some((reply, request)) = slot(&message.header, &mut replies, requests) else { continue };
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => reply.messages.push(inner),
                    NetlinkPayload::Error(error) => {
                        open -= 1;
                        reply.error =
                            explain(&error).filter(|(_, errno)| !request.is_satisfied_by(*errno)).map(|(e, _)| e);
                    }
                    _ => {}
                }
            }
        }
        Ok(replies)
    }

    /// Returns all objects of a kind. The message's header and attributes are the filter, if the kernel has one.
    pub(super) fn dump(&self, message: &M, what: &str) -> Result<Vec<M>, NetError> {
        let mut tries = 1;
        loop {
            let mut found = Vec::new();
            let interrupted = self.for_each(message, what, |inner| found.push(inner))?;
            // On a busy node the tables change all the time. The last read may lack what changed during it.
            if !interrupted || tries == DUMP_TRIES {
                return Ok(found);
            }
            tries += 1;
        }
    }

    /// Calls `each` for all objects of a kind, without keeping the table in memory. Returns true if other changes
    /// interrupted the dump.
    pub(super) fn for_each(&self, message: &M, what: &str, mut each: impl FnMut(M)) -> Result<bool, NetError> {
        self.send([(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)].into_iter()).map_err(socket_error)?;
        let mut interrupted = false;
        loop {
            for message in self.receive().map_err(socket_error)? {
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(interrupted),
                    NetlinkPayload::Done(done) => {
                        return Err(self.refused(what, io::Error::from_raw_os_error(-done.code)));
                    }
                    NetlinkPayload::Error(error) => {
                        let source =
                            explain(&error).map_or_else(|| io::ErrorKind::InvalidData.into(), |(error, _)| error);
                        return Err(self.refused(what, source));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Returns the error for a request that the kernel refused.
    pub(super) fn refused(&self, what: &str, source: io::Error) -> NetError {
        NetError::Refused { request: format!("{what} {}", self.place), source }
    }

    /// Sends messages as one datagram, numbered from 1.
    fn send(&self, messages: impl Iterator<Item = (M, u16)>) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(2048);
        for (sequence, (inner, flags)) in (1..).zip(messages) {
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(inner));
            message.header.flags = flags;
            message.header.sequence_number = sequence;
            message.finalize();
            let start = datagram.len();
            datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[start..]);
        }
        self.kernel.send(&datagram, 0).map(drop)
    }

    /// Returns the messages of one datagram. A message that cannot be decoded (a newer kernel's attribute) is left out;
    /// the caller sees that an answer is missing.
    fn receive(&self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.kernel.recv(&mut buffer, 0)?;
        let mut messages = Vec::new();
        let mut rest = &buffer[..];
        while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let Some(bytes) = rest.get(..length).filter(|bytes| bytes.len() >= 16) else { break };
            match NetlinkMessage::deserialize(bytes) {
                Ok(message) => messages.push(message),
                Err(error) => tracing::debug!(%error, "a netlink message could not be decoded"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// Returns the request that a message answers, and its reply, by the sequence number.
fn slot<'a, M>(
    header: &NetlinkHeader,
    replies: &'a mut [Reply<M>],
    requests: &'a [Request<M>],
) -> Option<(&'a mut Reply<M>, &'a Request<M>)> {
    let index = (header.sequence_number as usize).checked_sub(1)?;
    Some((replies.get_mut(index)?, requests.get(index)?))
}

fn socket_error(source: io::Error) -> NetError {
    NetError::Socket { kind: "netlink", source }
}

/// Returns the error of an acknowledgement and its errno; `None` if the code is 0.
fn explain(error: &ErrorMessage) -> Option<(io::Error, i32)> {
    let errno = -error.code?.get();
    let plain = || io::Error::from_raw_os_error(errno);
    // Attributes follow the request's header; `set_cap_ack` leaves out the rest of the request.
    let text = error.header.get(16..).and_then(|attributes| {
        NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == 1).and_then(|nla| DefaultNla::parse(&nla).ok())
    });
    let text = text.map(|nla| {
        let mut value = vec![0; nla.value_len()];
        nla.emit_value(&mut value);
        String::from_utf8_lossy(&value).trim_end_matches('\0').to_owned()
    });
    let source = text.map_or_else(plain, |text| explained(errno, text));
    Some((source, errno))
}
