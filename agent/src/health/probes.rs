//! The checks of each role's probes.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

use holdfast_controller::Heartbeat;
use holdfast_guard::Datapath;
use holdfast_ipam::PoolCache;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::check::{Check, Probes, check};

/// An agent: whether a pod that comes now would get its address and its guard.
pub fn agent(pools: &Arc<PoolCache>, datapath: &Datapath, socket: &Path) -> Probes {
    let (pools, datapath, socket) = (Arc::clone(pools), datapath.clone(), socket.to_owned());
    let synced =
        check(move || if pools.is_synced() { Ok(()) } else { Err("the pools have not been listed yet".to_owned()) });
    let guarded = check(move || match datapath.links() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the guard's maps cannot be read: {error}")),
    });
    let answers: Check = Arc::new(move || {
        let socket = socket.clone();
        Box::pin(async move {
            let answered = answers(&socket).await;
            answered.map_err(|error| format!("the socket {} does not answer: {error}", socket.display()))
        })
    });
    Probes {
        startup: vec![Arc::clone(&synced), Arc::clone(&answers)],
        readiness: vec![synced, Arc::clone(&answers), guarded],
        liveness: vec![answers],
    }
}

/// Sends a request to a socket and waits for any answer. The kernel takes connections even if the server hangs, so a
/// connection alone proves nothing. The request is for a path that does not exist: it costs nothing.
async fn answers(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").await?;
    let mut start = [0; 5];
    stream.read_exact(&mut start).await?;
    if start == *b"HTTP/" { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidData, "that was not HTTP")) }
}

/// A controller: whether it leads, or would if the leader went.
pub fn controller(heartbeat: &Arc<Heartbeat>) -> Probes {
    let (synced, leader, work) = (Arc::clone(heartbeat), Arc::clone(heartbeat), Arc::clone(heartbeat));
    let synced = check(move || synced.synced());
    Probes {
        startup: vec![Arc::clone(&synced)],
        readiness: vec![synced, check(move || leader.leader_known())],
        // A restart brings no API server back, but its requests end in time: a round that makes no progress hangs.
        liveness: vec![check(move || work.is_progressing())],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use tokio::{net::UnixListener, time::timeout};

    use super::*;

    #[tokio::test]
    async fn a_socket_answers_only_if_a_server_takes_its_requests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        assert!(answers(&path).await.is_err());
        let listener = UnixListener::bind(&path).unwrap();
        // The kernel takes the connection, and no server the request.
        assert!(timeout(Duration::from_millis(100), answers(&path)).await.is_err());
        let serving = tokio::spawn(async move { axum::serve(listener, Router::new()).await });
        timeout(Duration::from_secs(20), answers(&path)).await.unwrap().unwrap();
        serving.abort();
    }
}
