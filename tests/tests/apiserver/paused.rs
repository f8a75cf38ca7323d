//! Leaders that are paused, or cut off, in the middle of their work, and go on when another leads.

use std::collections::HashSet;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_agent::{config::ControllerArgs, run};
use holdfast_api::store::Store;
use holdfast_controller::Settings;
use http::StatusCode;
use kube::api::ListParams;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    delayed_client::Gate,
    server::Server,
    world::{SOON, World, settings, wait},
};

fn successor() -> Settings {
    Settings { identity: "two".to_owned(), ..settings() }
}

/// The leader's deletion of a claim is held up on its way. Its successor frees the address and a new pod gets it; then the
/// deletion arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_arrives_late_fails() -> Result<()> {
    let world = World::new("late", 70).await?;
    world.make_node(&world.name).await?;
    let (client, gate) = Gate::client(Server::get()?.config().await?)?;
    let settings = Settings { namespace: world.name.clone(), ..settings() };
    let cut_off = world.lead_through(&Store::new(client), settings);
    world.leak(1).await?;
    wait("the deletion to be on its way", SOON, || async { Ok((gate.is_closed(), ())) }).await?;
    let second = world.lead(successor());
    let pod = world.make_pod("new", None, &world.name).await?;
    world.bind_when_free(&pod, world.address(1)).await?;
    let uid = world.store.claim(world.address(1)).await?.and_then(|claim| claim.metadata.uid);
    gate.open();
    let answered = || async { Ok((!gate.answers().is_empty(), ())) };
    wait("the deletion to be answered", SOON, answered).await?;
    assert_eq!(gate.answers(), [StatusCode::CONFLICT]);
    world.looked(2).await?;
    let claim = world.store.claim(world.address(1)).await?.expect("the new pod uses it");
    assert!(claim.belongs_to(&world.pod_name("new")) && claim.metadata.uid == uid);
    second.stop().await;
    cut_off.stop().await;
    Ok(())
}

/// The namespace of the controller that the process is to be.
const CONTROLLER: &str = "HOLDFAST_TEST_PAUSED";

/// A leader is stopped like a process on a machine that swaps, and goes on when all that it was about to free is in use
/// again. In the process that it starts, this test is that leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_frees_nothing() -> Result<()> {
    if let Ok(namespace) = std::env::var(CONTROLLER) {
        let arguments = "--conf=/none --health=127.0.0.1:0 --released-rest-seconds=1 --orphaned-rest-seconds=1 \
            --lease-seconds=3 --renew-deadline-seconds=2 --retry-seconds=1 --pod-namespace";
        let arguments: Vec<_> = arguments.split_whitespace().chain([namespace.as_str()]).collect();
        return run::controller(&ControllerArgs::parse(&arguments)?).await;
    }
    let world = World::new("stopped", 71).await?;
    world.make_node(&world.name).await?;
    let numbers = || stream::iter(1..=200u16);
    numbers().map(Ok).try_for_each_concurrent(16, |number| world.leak(number)).await?;
    let name = "paused::a_leader_that_was_paused_frees_nothing";
    let process = Server::get()?.process(name, &[(CONTROLLER, &world.name)])?;
    let pid = Pid::from_raw(process.0.id().try_into()?);
    let begun = || async {
        let left = world.endpoints().list(&ListParams::default()).await?.items.len();
        Ok((left < 180, left))
    };
    wait("the leader to begin", SOON, begun).await?;
    kill(pid, Signal::SIGSTOP)?;
    let second = world.lead(successor());
    let rebound = numbers().map(anyhow::Ok).try_for_each_concurrent(16, |number| {
        let world = &world;
        async move {
            let pod = world.make_pod(&format!("new-{number}"), None, &world.name).await?;
            world.bind_when_free(&pod, world.address(number)).await
        }
    });
    rebound.await?;
    let held = || async {
        let held: HashSet<_> = world.held().await?.into_iter().map(|claim| claim.spec.endpoint).collect();
        anyhow::Ok(held)
    };
    let before = held().await?;
    kill(pid, Signal::SIGCONT)?;
    // The writes that it had begun arrive before the other has collected one more.
    world.looked(300).await?;
    assert_eq!(held().await?.len(), 200);
    assert_eq!(held().await?, before);
    second.stop().await;
    Ok(())
}
