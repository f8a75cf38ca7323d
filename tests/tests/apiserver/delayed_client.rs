//! A client whose requests are delayed, as by a slow network or a paused process: they arrive later, even if no caller
//! waits for the answers any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::sync::watch;
use tower::{BoxError, Layer, Service};

/// Delays every request from the first deletion of a claim on, until it is opened.
#[derive(Clone)]
pub(crate) struct Gate {
    state: Arc<watch::Sender<State>>,
    /// The status codes of the answers to deletions of claims.
    answers: Arc<Mutex<Vec<StatusCode>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Closed,
    Open,
}

impl Gate {
    /// A client behind a gate.
    pub(crate) fn client(config: Config) -> Result<(Client, Self)> {
        let gate = Self { state: Arc::new(watch::Sender::new(State::Waiting)), answers: Arc::default() };
        Ok((ClientBuilder::try_from(config)?.with_layer(&gate).build(), gate))
    }

    /// Returns true if a deletion is on its way.
    pub(crate) fn is_closed(&self) -> bool {
        *self.state.borrow() == State::Closed
    }

    /// Lets everything go on.
    pub(crate) fn open(&self) {
        self.state.send_replace(State::Open);
    }

    /// Returns the status codes of the answers to deletions of claims so far.
    pub(crate) fn answers(&self) -> Vec<StatusCode> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn pass(&self) {
        // The gate itself holds the sender.
        drop(self.state.subscribe().wait_for(|state| *state != State::Closed).await);
    }
}

impl<S> Layer<S> for Gate {
    type Service = Delayed<S>;

    fn layer(&self, inner: S) -> Delayed<S> {
        Delayed { inner, gate: self.clone() }
    }
}

pub(crate) struct Delayed<S> {
    inner: S,
    gate: Gate,
}

impl<S, B> Service<Request<Body>> for Delayed<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let deletes = request.method() == Method::DELETE && request.uri().path().contains("/ipclaims/");
        if deletes {
            self.gate.state.send_if_modified(|state| {
                let first = *state == State::Waiting;
                *state = if first { State::Closed } else { *state };
                first
            });
        }
        let (gate, answer) = (self.gate.clone(), self.inner.call(request));
        let sent = tokio::spawn(async move {
            gate.pass().await;
            let answer = answer.await.map_err(Into::into);
            if let Some(answer) = answer.as_ref().ok().filter(|_| deletes) {
                gate.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer.status());
            }
            answer
        });
        sent.map(|outcome| outcome.unwrap_or_else(|error| Err(error.into()))).boxed()
    }
}
