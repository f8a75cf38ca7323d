//! The agent's unix socket: one route for each verb of the plugin.
//!
//! A request runs to its end even when the plugin goes away: half an ADD would leave more behind than a whole one.

mod metrics;

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use holdfast_cni::{CniError, Invocation, Verb, code};
pub use metrics::VerbMetrics;
use serde::Serialize;
use serde_json::json;
use tokio::{net::UnixListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::node::Attachments;

/// The largest request; a network configuration with a long GC list fits many times.
const BODY_LIMIT: usize = 8 << 20;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {source}")]
pub struct ServerError {
    path: PathBuf,
    source: io::Error,
}

struct Shared {
    attachments: Attachments,
    deadline: Duration,
    metrics: VerbMetrics,
    requests: TaskTracker,
}

/// Listens on `path`, for root alone. A socket that an ended agent left there is replaced.
pub fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let wrong = |source| ServerError { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(wrong)?;
    }
    // Bound under another name and moved into place: the plugin never finds a socket that anyone may use.
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(wrong)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600)).map_err(wrong)?;
    std::fs::rename(&temporary, path).map_err(wrong)?;
    Ok(listener)
}

/// Serves until `stop`, then lets running requests end.
pub async fn serve(
    listener: UnixListener,
    attachments: Attachments,
    deadline: Duration,
    metrics: VerbMetrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let requests = TaskTracker::new();
    let shared = Arc::new(Shared { attachments, deadline, metrics, requests: requests.clone() });
    let mut router = Router::new();
    for verb in Verb::ALL {
        let handler = move |State(shared): State<Arc<Shared>>, body: Bytes| answer(shared, verb, body);
        router = router.route(verb.route(), post(handler));
    }
    let router = router.layer(DefaultBodyLimit::max(BODY_LIMIT)).with_state(shared);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?;
    requests.close();
    requests.wait().await;
    Ok(())
}

async fn answer(shared: Arc<Shared>, verb: Verb, body: Bytes) -> Response {
    let invocation: Invocation = match serde_json::from_slice(&body) {
        Ok(invocation) => invocation,
        Err(error) => {
            let msg = format!("the plugin's request was not understood: {error}");
            return refuse(&CniError::new(code::DECODING, msg));
        }
    };
    let span = tracing::info_span!("cni", %verb, container = %invocation.container_id, ifname = invocation.ifname);
    let task = shared.requests.spawn(perform(Arc::clone(&shared), verb, invocation).instrument(span));
    task.await.unwrap_or_else(|error| refuse(&CniError::new(code::INTERNAL, format!("the request failed: {error}"))))
}

async fn perform(shared: Arc<Shared>, verb: Verb, invocation: Invocation) -> Response {
    let (attachments, started) = (&shared.attachments, Instant::now());
    let deadline = started + shared.deadline;
    let response = match verb {
        Verb::Add => reply(attachments.add(&invocation, deadline).await),
        Verb::Del => reply(attachments.del(&invocation, deadline).await.map(|()| json!({}))),
        Verb::Check => reply(attachments.check(&invocation, deadline).await.map(|()| json!({}))),
        Verb::Status => reply(attachments.status(&invocation, deadline).await.map(|()| json!({}))),
        Verb::Gc => reply(attachments.gc(&invocation, deadline).await.map(|()| json!({}))),
    };
    shared.metrics.answered(verb, started.elapsed());
    tracing::debug!(status = %response.status(), took = ?started.elapsed(), "answered");
    response
}

fn reply<T: Serialize>(outcome: Result<T, CniError>) -> Response {
    match outcome {
        Ok(result) => Json(result).into_response(),
        Err(error) => refuse(&error),
    }
}

/// The status only tells errors of the client from those that a retry may solve; the plugin goes by the body.
fn refuse(error: &CniError) -> Response {
    let status = if error.is_retry() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY };
    (status, Json(error)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_root_alone_and_replaces_what_an_ended_agent_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        for _ in 0..2 {
            drop(listen(&path).unwrap());
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
