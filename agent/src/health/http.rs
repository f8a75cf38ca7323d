//! The HTTP endpoints of one process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::check::{Check, Probes};

/// The content type of [`encode`]'s text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The time that a check may take; a kubelet waits a second by default.
const WITHIN: Duration = Duration::from_millis(900);

/// The HTTP endpoints of one process.
pub struct Health {
    listener: TcpListener,
    router: Router,
}

impl Health {
    /// Listens on `address`.
    pub async fn listen(address: SocketAddr, probes: Probes, registry: Arc<Registry>) -> anyhow::Result<Self> {
        let in_use = || format!("cannot listen on {address} for health checks; --health names another address");
        let listener = TcpListener::bind(address).await.with_context(in_use)?;
        let probe = |checks: Vec<Check>| get(move || ask(checks.clone()));
        let shown = move || {
            let text = encode(&registry);
            async move { ([(CONTENT_TYPE, METRICS_TYPE)], text) }
        };
        let router = Router::new()
            .route("/v1/runtime/startup", probe(probes.startup))
            .route("/v1/runtime/readiness", probe(probes.readiness))
            .route("/v1/runtime/liveness", probe(probes.liveness))
            .route("/metrics", get(shown));
        Ok(Self { listener, router })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `stop`.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        Ok(axum::serve(self.listener, self.router).with_graceful_shutdown(stop.cancelled_owned()).await?)
    }
}

/// Returns everything that is registered, as text.
fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail; a metric that cannot be encoded is a mistake in the metric.
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
        tracing::error!(%error, "the metrics could not be written");
    }
    text
}

async fn ask(checks: Vec<Check>) -> Response {
    let looks = futures::future::try_join_all(checks.iter().map(|check| check()));
    match tokio::time::timeout(WITHIN, looks).await {
        Ok(Ok(_)) => "ok\n".into_response(),
        Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "a check did not answer in time\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::health::check::check;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_say_what_is_wrong() {
        let probes = Probes {
            startup: vec![check(|| Ok(()))],
            readiness: vec![check(|| Ok(())), check(|| Err("no leader".to_owned()))],
            liveness: vec![Arc::new(|| Box::pin(std::future::pending()))],
        };
        let mut registry = Registry::default();
        let gauge = prometheus_client::metrics::gauge::Gauge::<i64>::default();
        registry.register("holdfast_leader", "x", gauge);
        let health = Health::listen("127.0.0.1:0".parse().unwrap(), probes, Arc::new(registry)).await.unwrap();
        let (address, stop) = (health.address().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(health.serve(stop.clone()));
        assert!(fetch(address, "/v1/runtime/startup").await.starts_with("HTTP/1.1 200"));
        let ready = fetch(address, "/v1/runtime/readiness").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("no leader\n"), "{ready}");
        assert!(fetch(address, "/v1/runtime/liveness").await.contains("in time"));
        assert!(fetch(address, "/metrics").await.contains("holdfast_leader 0\n"));
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
