//! A blocking netlink socket that sends many requests at once: rtnetlink's, unless its type says another.
//!
//! The kernel works on rtnetlink requests inside `send`, holding the RTNL mutex: an "asynchronous" socket would
//! block the runtime's thread just the same. So everything here blocks and is called from blocking threads, and
//! what belongs together goes out in one `send`.

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

use super::NetError;

/// Larger than what the kernel puts into one message of a dump (32 KiB).
const RECEIVE_BUFFER: usize = 64 << 10;
/// Acknowledgements are queued before `send` returns, so this never passes on a healthy kernel.
const PATIENCE: Duration = Duration::from_secs(10);
/// A dump that other changes run through is read again this often.
const DUMP_TRIES: usize = 4;

/// How a request treats what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Make it; that it exists is an error.
    Create,
    /// Make it, or leave the one that is there.
    Ensure,
    /// Make it, or change the one that is there.
    Replace,
    /// Change or ask.
    Change,
    /// Remove it; that it is missing is no error.
    Remove,
}

/// What a socket sends and receives.
pub(super) trait Protocol: NetlinkSerializable + NetlinkDeserializable + Clone {}

impl<M: NetlinkSerializable + NetlinkDeserializable + Clone> Protocol for M {}

/// One request, with the words for its error.
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

    /// Whether the errno says that what was wanted is so already.
    fn is_satisfied_by(&self, errno: i32) -> bool {
        match self.intent {
            Intent::Ensure => errno == libc::EEXIST,
            Intent::Remove => matches!(errno, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL),
            Intent::Create | Intent::Replace | Intent::Change => false,
        }
    }
}

/// What came back for one request.
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

/// The errno, also of an error that carries the kernel's text.
pub(super) fn errno(error: &io::Error) -> Option<i32> {
    let explained = || error.get_ref()?.downcast_ref::<Explained>().map(|explained| explained.errno);
    error.raw_os_error().or_else(explained)
}

/// A netlink socket, bound to the namespace it was opened in for ever.
pub(super) struct Socket<M = RouteNetlinkMessage> {
    kernel: sys::Socket,
    /// For messages: "on this node" or "in /run/netns/…".
    place: String,
    speaks: PhantomData<M>,
}

impl Socket {
    /// An rtnetlink socket in the calling thread's network namespace.
    pub(super) fn open(place: impl Into<String>) -> Result<Self, NetError> {
        Self::open_protocol(NETLINK_ROUTE, place)
    }
}

impl<M: Protocol> Socket<M> {
    /// A socket of one of netlink's protocols in the calling thread's network namespace.
    pub(super) fn open_protocol(protocol: isize, place: impl Into<String>) -> Result<Self, NetError> {
        let open = || -> io::Result<sys::Socket> {
            let mut socket = sys::Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&sys::SocketAddr::new(0, 0))?;
            // The kernel says in words what it dislikes, and need not send our own request back.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Kernels before 4.20 filter no dumps; what comes back is filtered here anyway.
            let _ = socket.set_netlink_get_strict_chk(true);
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE.as_secs().cast_signed()))?;
            Ok(socket)
        };
        let kernel = open().map_err(broken)?;
        Ok(Self { kernel, place: place.into(), speaks: PhantomData })
    }

    /// Carries out all requests, in order. The kernel goes on after one that failed, so on an error the caller
    /// undoes the lot; the error is the first one's.
    pub(super) fn commit(&self, requests: Vec<Request<M>>) -> Result<(), NetError> {
        self.exchange(&requests)?.into_iter().zip(requests).try_for_each(|(reply, request)| match reply.error {
            Some(source) => Err(self.refused(&request.what, source)),
            None => Ok(()),
        })
    }

    /// Carries out all requests and says how each one went. An error that leaves things as they were wanted
    /// is none.
    pub(super) fn exchange(&self, requests: &[Request<M>]) -> Result<Vec<Reply<M>>, NetError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.send(requests.iter().map(|request| (request.message.clone(), request.flags()))).map_err(broken)?;
        let mut replies: Vec<_> = requests.iter().map(|_| Reply::default()).collect();
        let mut open = requests.len();
        while open > 0 {
            for message in self.receive().map_err(broken)? {
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

    /// All objects of a kind. The message's header and attributes are the filter, as far as the kernel has one.
    pub(super) fn dump(&self, message: &M, what: &str) -> Result<Vec<M>, NetError> {
        let mut tries = 1;
        loop {
            let mut found = Vec::new();
            let interrupted = self.for_each(message, what, |inner| found.push(inner))?;
            // The tables never stand still on a busy node; the last reading may lack what changed meanwhile.
            if !interrupted || tries == DUMP_TRIES {
                return Ok(found);
            }
            tries += 1;
        }
    }

    /// Hands over all objects of a kind one by one, for tables that nobody wants in memory as a whole. Whether
    /// other changes ran through it.
    pub(super) fn for_each(&self, message: &M, what: &str, mut each: impl FnMut(M)) -> Result<bool, NetError> {
        self.send([(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)].into_iter()).map_err(broken)?;
        let mut interrupted = false;
        loop {
            for message in self.receive().map_err(broken)? {
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

    /// The messages of one datagram. One that cannot be decoded (a newer kernel's attribute) is left out: for an
    /// answer that was asked for, its absence is noticed where it is missed.
    fn receive(&self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.kernel.recv(&mut buffer, 0)?;
        let mut messages = Vec::new();
        let mut rest = &buffer[..];
        while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let Some(bytes) = rest.get(..length).filter(|bytes| bytes.len() >= 16) else { break };
            match NetlinkMessage::deserialize(bytes) {
                Ok(message) => messages.push(message),
                Err(error) => tracing::debug!(%error, "a netlink message was not understood"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// The request that a message answers, by its number.
fn slot<'a, M>(
    header: &NetlinkHeader,
    replies: &'a mut [Reply<M>],
    requests: &'a [Request<M>],
) -> Option<(&'a mut Reply<M>, &'a Request<M>)> {
    let index = (header.sequence_number as usize).checked_sub(1)?;
    Some((replies.get_mut(index)?, requests.get(index)?))
}

fn broken(source: io::Error) -> NetError {
    NetError::Socket { what: "netlink", source }
}

/// An errno with the kernel's own words (`NLMSGERR_ATTR_MSG`).
#[derive(Debug, thiserror::Error)]
#[error("{text} ({})", io::Error::from_raw_os_error(*errno))]
struct Explained {
    errno: i32,
    text: String,
}

/// The error of an acknowledgement; none if the code is 0.
fn explain(error: &ErrorMessage) -> Option<(io::Error, i32)> {
    let errno = -error.code?.get();
    let plain = || io::Error::from_raw_os_error(errno);
    // After the request's header (the request itself is left out, see `set_cap_ack`) come attributes.
    let text = error.header.get(16..).and_then(|attributes| {
        NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == 1).and_then(|nla| DefaultNla::parse(&nla).ok())
    });
    let text = text.map(|nla| {
        let mut value = vec![0; nla.value_len()];
        nla.emit_value(&mut value);
        String::from_utf8_lossy(&value).trim_end_matches('\0').to_owned()
    });
    let source = text.map_or_else(plain, |text| io::Error::new(plain().kind(), Explained { errno, text }));
    Some((source, errno))
}
