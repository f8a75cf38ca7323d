//! Clients of the API server.

use std::time::Duration;

use anyhow::Context;
use holdfast_api::store::Store;
use kube::{Client, Config, client::ClientBuilder};
use tower::timeout::TimeoutLayer;

/// The time that the API server has to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The time that it has to answer a read or a write. Lists of large pools take seconds.
const ANSWER: Duration = Duration::from_secs(15);
/// The time that it may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// Returns a store whose reads and writes end in time, and a client for watches, which may be silent for as long as
/// nothing happens.
pub(super) async fn clients() -> anyhow::Result<(Store, Client)> {
    let hint = "cannot find the API server: run in a pod with a service account, or set KUBECONFIG";
    let mut config = Config::infer().await.context(hint)?;
    config.connect_timeout = Some(CONNECT);
    let wrong = "cannot make a client for the API server";
    let watches = Client::try_from(config.clone()).context(wrong)?;
    Ok((Store::new(timely(config, ANSWER).context(wrong)?), watches))
}

/// Returns a client whose requests are answered within `answer`, or fail.
fn timely(mut config: Config, answer: Duration) -> kube::Result<Client> {
    config.read_timeout = Some(SILENCE);
    // Else the time that a connection had nothing to do would count.
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(answer)).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_hangs_fails() {
        // The kernel takes the connection, and no server the request.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let store = Store::new(timely(Config::new(url), Duration::from_millis(100)).unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(20), store.node("n")).await;
        assert!(answer.expect("it should have failed by itself").is_err());
    }
}
