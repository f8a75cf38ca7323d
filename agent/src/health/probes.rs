//! What each role's probes look at.

use std::{path::Path, sync::Arc};

use super::{Check, Probes, check};
use crate::{controller::Vitals, datapath::Datapath, pools::Pools};

/// An agent: whether a pod that comes now would get its address and its guard.
pub fn agent(pools: &Arc<Pools>, datapath: &Datapath, socket: &Path) -> Probes {
    let (pools, datapath, socket) = (Arc::clone(pools), datapath.clone(), socket.to_owned());
    let synced =
        check(move || if pools.synced() { Ok(()) } else { Err("the pools have not been listed yet".to_owned()) });
    let guarded = check(move || match datapath.links() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the guard's maps cannot be read: {error}")),
    });
    let answers: Check = Arc::new(move || {
        let socket = socket.clone();
        Box::pin(async move {
            let connected = tokio::net::UnixStream::connect(&socket).await;
            connected.map(drop).map_err(|error| format!("the socket {} does not answer: {error}", socket.display()))
        })
    });
    Probes {
        startup: vec![Arc::clone(&synced), Arc::clone(&answers)],
        readiness: vec![synced, Arc::clone(&answers), guarded],
        liveness: vec![answers],
    }
}

/// A controller: whether it leads, or would if the leader went.
pub fn controller(vitals: &Arc<Vitals>) -> Probes {
    let (synced, leader) = (Arc::clone(vitals), Arc::clone(vitals));
    let synced = check(move || synced.synced());
    Probes {
        startup: vec![Arc::clone(&synced)],
        readiness: vec![synced, check(move || leader.leader_known())],
        // An answer at all says that the runtime works. A restart brings no API server back.
        liveness: Vec::new(),
    }
}
