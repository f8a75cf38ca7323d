//! An API server for tests that expects exact requests, in order, and gives each the answer that the test wrote.

use std::time::Duration;

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tower_test::mock::{self, Handle};

/// The time within which a test's requests have to come and be answered.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The server's side of a mocked client.
pub(crate) struct MockApiServer(Handle<Request<Body>, Response<Body>>);

/// An expected request, as `METHOD path?query`, and its answer.
pub(crate) type Exchange<'a> = (&'a str, Value);

/// Returns a client and the server that answers it.
pub(crate) fn mock_api_server() -> (Client, MockApiServer) {
    let (service, handle) = mock::pair();
    (Client::new(service, "default"), MockApiServer(handle))
}

impl MockApiServer {
    /// Expects one request and returns its body.
    pub(crate) async fn expect(&mut self, request: &str, answer: Value) -> Value {
        self.expect_concurrent(&[(request, answer)]).await.remove(0)
    }

    /// Expects requests that are sent at the same time, in any order. Returns their bodies in the order of `exchanges`.
    pub(crate) async fn expect_concurrent(&mut self, exchanges: &[Exchange<'_>]) -> Vec<Value> {
        let mut bodies = vec![None; exchanges.len()];
        for _ in exchanges {
            let next = tokio::time::timeout(DEADLINE, self.0.next_request()).await;
            let expected = || exchanges.iter().map(|(request, _)| *request).collect::<Vec<_>>();
            let (request, send) =
                next.ok().flatten().unwrap_or_else(|| panic!("no request; expected {:?}", expected()));
            // An empty query is no part of the path.
            let got = format!("{} {}", request.method(), request.uri().to_string().trim_end_matches('?'));
            let position =
                exchanges.iter().enumerate().position(|(i, (expected, _))| *expected == got && bodies[i].is_none());
            let position = position.unwrap_or_else(|| panic!("got {got}; expected {:?}", expected()));
            let body = request.into_body().collect_bytes().await.unwrap();
            bodies[position] = Some(serde_json::from_slice(&body).unwrap_or(Value::Null));
            let answer = &exchanges[position].1;
            let is_failure = answer["kind"] == "Status" && answer["status"] == "Failure";
            let code =
                if is_failure { answer["code"].as_u64().and_then(|code| code.try_into().ok()) } else { Some(200_u16) };
            let answer =
                Response::builder().status(code.unwrap()).body(Body::from(serde_json::to_vec(answer).unwrap()));
            send.send_response(answer.unwrap());
        }
        bodies.into_iter().flatten().collect()
    }

    /// Expects that no request is left, once the client has been used.
    pub(crate) fn expect_no_more(mut self) {
        let next = std::pin::pin!(self.0.next_request());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(Some((request, _))) = next.poll(&mut context) {
            panic!("got {} {}; expected no more requests", request.method(), request.uri());
        }
    }
}

/// Returns the answer for a failure with this HTTP status code.
pub(crate) fn failure(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code})
}
