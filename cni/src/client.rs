//! One HTTP/1.1 request over the agent's unix socket, with one deadline for all of it.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use holdfast_cni::{CniError, Verb, code};

use crate::call::Call;

/// A result has a few hundred bytes.
const MAX_ANSWER: usize = 4 << 20;
const MAX_HEADERS: usize = 32;

/// Why there is no answer.
enum Failure {
    /// Nobody listens, or the other side went away: the same request may work a second later.
    Away(io::Error),
    /// Something answered, but not as the agent does.
    Strange(String),
}

/// Sends the call; gives the body of a 200 answer.
pub(crate) fn ask(call: &Call) -> Result<Vec<u8>, CniError> {
    let socket = call.conf.socket();
    let body = serde_json::to_vec(&call.invocation)
        .map_err(|error| CniError::new(code::INTERNAL, "encoding the request").with_details(error))?;
    let deadline = Instant::now() + call.timeout;
    let answer = exchange(&socket, call.verb, &body, deadline).and_then(|raw| Answer::parse(&raw));
    match answer {
        Ok(Answer { status: 200, body }) => Ok(body),
        Ok(Answer { status, body }) => Err(refusal(status, &body)),
        Err(Failure::Away(error)) => Err(away(call.verb, &socket, &error)),
        Err(Failure::Strange(what)) => {
            let msg = format!("what listens at {} does not answer as the holdfast agent does", socket.display());
            Err(CniError::new(code::BAD_ANSWER, msg).with_details(what))
        }
    }
}

/// The agent said no, and why.
fn refusal(status: u16, body: &[u8]) -> CniError {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
        CniError::new(code::BAD_ANSWER, format!("the holdfast agent answered HTTP {status} without a CNI error"))
            .with_details(shown)
    })
}

/// The agent is not there. DEL too asks for another try: only the agent can give the address back.
fn away(verb: Verb, socket: &Path, error: &io::Error) -> CniError {
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

/// Sends the request and reads until the agent closes or the answer is complete.
fn exchange(socket: &Path, verb: Verb, body: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(Failure::Away)?;
    let mut request = format!(
        "POST {} HTTP/1.1\r\nHost: holdfast\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        verb.route(),
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.set_write_timeout(Some(left(deadline)?)).map_err(Failure::Away)?;
    // An agent may refuse before it has read all; what it says then is worth more than the broken pipe.
    let sent = stream.write_all(&request);
    let mut raw = Vec::new();
    let received = receive(&mut stream, &mut raw, deadline);
    // Best effort: the process ends in a moment and closes it anyway.
    let _ = stream.shutdown(Shutdown::Both);
    match (sent, received) {
        (_, Ok(())) if !raw.is_empty() => Ok(raw),
        (Err(error), _) => Err(Failure::Away(error)),
        (Ok(()), Err(failure)) => Err(failure),
        (Ok(()), Ok(())) => Err(Failure::Away(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed before an answer came",
        ))),
    }
}

fn receive(stream: &mut UnixStream, raw: &mut Vec<u8>, deadline: Instant) -> Result<(), Failure> {
    let mut chunk = [0; 8192];
    loop {
        // A timeout per read alone would let a slow trickle go on for ever.
        stream.set_read_timeout(Some(left(deadline)?)).map_err(Failure::Away)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => raw.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(timed_out()),
            Err(error) => return Err(Failure::Away(error)),
        }
        if raw.len() > MAX_ANSWER {
            return Err(Failure::Strange("more than 4 MiB".to_owned()));
        }
        if complete(raw) {
            return Ok(());
        }
    }
}

/// Whether all that `Content-Length` promises is there; without one the end of the stream decides.
fn complete(raw: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(raw) {
        Ok(httparse::Status::Complete(head)) => {
            content_length(&response).is_some_and(|length| raw.len() - head >= length)
        }
        // Not HTTP: reading on would not make it better.
        Err(_) => true,
        Ok(httparse::Status::Partial) => false,
    }
}

fn left(deadline: Instant) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(timed_out()) } else { Ok(left) }
}

fn timed_out() -> Failure {
    Failure::Away(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
}

fn content_length(response: &httparse::Response<'_, '_>) -> Option<usize> {
    let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(header.value).ok()?.trim().parse().ok()
}

/// An HTTP answer.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn parse(raw: &[u8]) -> Result<Self, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(raw) {
            Ok(httparse::Status::Complete(head)) => head,
            // It began to answer and died: as good as no answer.
            Ok(httparse::Status::Partial) => return Err(cut_off()),
            Err(error) => return Err(Failure::Strange(format!("not HTTP: {error}"))),
        };
        let chunked = response.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
        if chunked {
            return Err(Failure::Strange("a transfer encoding; the agent sends none".to_owned()));
        }
        let status = response.code.unwrap_or_default();
        let body = &raw[head..];
        let body = match content_length(&response) {
            Some(length) if body.len() < length => return Err(cut_off()),
            Some(length) => &body[..length],
            None => body,
        };
        Ok(Self { status, body: body.to_vec() })
    }
}

fn cut_off() -> Failure {
    Failure::Away(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed in the middle of the answer"))
}
