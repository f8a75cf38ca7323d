//! The HTTP/1.1 client: one request over the agent's unix socket, with one deadline for connection, request and
//! response.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use holdfast_cni::{CniError, Verb, code};

use crate::request::Request;

/// The size limit of a response in bytes. A result has a few hundred.
const MAX_RESPONSE: usize = 4 << 20;
const MAX_HEADERS: usize = 32;

/// The reason for a missing response.
enum Failure {
    /// The connection was refused, closed or timed out: the same request may succeed later.
    Unreachable(io::Error),
    /// The response is not one that the agent sends.
    Protocol(String),
}

/// Sends the request and returns the body of the 200 response.
pub(crate) fn send(request: &Request) -> Result<Vec<u8>, CniError> {
    let socket = request.conf.socket();
    let body = serde_json::to_vec(&request.invocation)
        .map_err(|error| CniError::new(code::INTERNAL, "encoding the request").with_details(error))?;
    let deadline = Instant::now() + request.timeout;
    let response = exchange(&socket, request.verb, &body, deadline).and_then(|raw| Response::parse(&raw));
    match response {
        Ok(Response { status: 200, body }) => Ok(body),
        Ok(Response { status, body }) => Err(agent_error(status, &body)),
        Err(Failure::Unreachable(error)) => Err(unreachable(request.verb, &socket, &error)),
        Err(Failure::Protocol(details)) => {
            let msg = format!("the server at {} does not respond as the holdfast agent does", socket.display());
            Err(CniError::new(code::BAD_RESPONSE, msg).with_details(details))
        }
    }
}

/// Returns the agent's own error from a response that is not 200.
fn agent_error(status: u16, body: &[u8]) -> CniError {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
        CniError::new(code::BAD_RESPONSE, format!("the holdfast agent responded HTTP {status} without a CNI error"))
            .with_details(shown)
    })
}

/// Returns the error for an agent that does not answer. DEL has to be repeated as well: only the agent can release the
/// address.
fn unreachable(verb: Verb, socket: &Path, error: &io::Error) -> CniError {
    let socket = socket.display();
    let where_to_look = "look at the holdfast agent pod on this node";
    let (code, msg) = match verb {
        Verb::Add => (
            code::TRY_AGAIN,
            format!(
                "the holdfast agent does not answer at {socket}: the pod stays pending and the kubelet will try again; {where_to_look}"
            ),
        ),
        Verb::Del => (
            code::TRY_AGAIN,
            format!(
                "the holdfast agent does not answer at {socket}: the pod's addresses are kept and the runtime will try again; {where_to_look}"
            ),
        ),
        Verb::Check | Verb::Gc => (
            code::TRY_AGAIN,
            format!("the holdfast agent does not answer at {socket}, try again later; {where_to_look}"),
        ),
        Verb::Status => (
            code::NOT_AVAILABLE,
            format!("the holdfast agent does not answer at {socket}: pods cannot be started here; {where_to_look}"),
        ),
    };
    CniError::new(code, msg).with_details(error)
}

/// Sends the request and reads until the agent closes the connection or the response is complete.
fn exchange(socket: &Path, verb: Verb, body: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(Failure::Unreachable)?;
    let mut request = format!(
        "POST {} HTTP/1.1\r\nHost: holdfast\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        verb.route(),
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.set_write_timeout(Some(remaining(deadline)?)).map_err(Failure::Unreachable)?;
    // The agent may respond with an error before it has read the whole request; its error is more useful than EPIPE.
    let sent = stream.write_all(&request);
    let mut raw = Vec::new();
    let received = receive(&mut stream, &mut raw, deadline);
    // Best effort: the process closes the socket when it exits.
    let _ = stream.shutdown(Shutdown::Both);
    match (sent, received) {
        (_, Ok(())) if !raw.is_empty() => Ok(raw),
        (Err(error), _) => Err(Failure::Unreachable(error)),
        (Ok(()), Err(failure)) => Err(failure),
        (Ok(()), Ok(())) => Err(Failure::Unreachable(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed before the response",
        ))),
    }
}

fn receive(stream: &mut UnixStream, raw: &mut Vec<u8>, deadline: Instant) -> Result<(), Failure> {
    let mut chunk = [0; 8192];
    loop {
        // Set before each read: a constant timeout per read would not end a slow trickle.
        stream.set_read_timeout(Some(remaining(deadline)?)).map_err(Failure::Unreachable)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => raw.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(timed_out()),
            Err(error) => return Err(Failure::Unreachable(error)),
        }
        if raw.len() > MAX_RESPONSE {
            return Err(Failure::Protocol("more than 4 MiB".to_owned()));
        }
        if is_complete(raw) {
            return Ok(());
        }
    }
}

/// Returns true if the response has its `Content-Length`. Without the header the end of the stream ends the response.
fn is_complete(raw: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(raw) {
        Ok(httparse::Status::Complete(head)) => {
            content_length(&response).is_some_and(|length| raw.len() - head >= length)
        }
        // Not HTTP: `Response::parse` reports it.
        Err(_) => true,
        Ok(httparse::Status::Partial) => false,
    }
}

fn remaining(deadline: Instant) -> Result<Duration, Failure> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(timed_out()) } else { Ok(remaining) }
}

fn timed_out() -> Failure {
    Failure::Unreachable(io::Error::new(io::ErrorKind::TimedOut, "no response in time"))
}

fn content_length(response: &httparse::Response<'_, '_>) -> Option<usize> {
    let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(header.value).ok()?.trim().parse().ok()
}

/// An HTTP response.
struct Response {
    status: u16,
    body: Vec<u8>,
}

impl Response {
    fn parse(raw: &[u8]) -> Result<Self, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(raw) {
            Ok(httparse::Status::Complete(head)) => head,
            // The agent died while it sent the response.
            Ok(httparse::Status::Partial) => return Err(truncated()),
            Err(error) => return Err(Failure::Protocol(format!("not HTTP: {error}"))),
        };
        let chunked = response.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
        if chunked {
            return Err(Failure::Protocol("a transfer encoding, which the agent never uses".to_owned()));
        }
        let status = response.code.unwrap_or_default();
        let body = &raw[head..];
        let body = match content_length(&response) {
            Some(length) if body.len() < length => return Err(truncated()),
            Some(length) => &body[..length],
            None => body,
        };
        Ok(Self { status, body: body.to_vec() })
    }
}

fn truncated() -> Failure {
    Failure::Unreachable(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed within the response"))
}
