//! Election of the leading controller.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::{config::ControllerArgs, run};
use holdfast_api::store::{StoreError, WriteGate};
use holdfast_controller::Settings;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    server::Server,
    world::{SOON, World, settings, wait},
};

async fn leader(world: &World) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.name);
    let lease = leases.get_opt("holdfast-controller").await?;
    Ok(lease.and_then(|lease| lease.spec?.holder_identity))
}

async fn leads(world: &World, wanted: &str) -> Result<Duration> {
    let look = || async {
        let holder = leader(world).await?;
        Ok((holder.as_deref() == Some(wanted), holder))
    };
    wait(&format!("{wanted:?} to lead"), SOON, look).await
}

fn named(identity: &str) -> Settings {
    Settings { identity: identity.to_owned(), ..settings() }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_within_seconds() -> Result<()> {
    let world = World::new("election", 40).await?;
    let one = world.lead(named("one"));
    leads(&world, "one").await?;
    let two = world.lead(named("two"));
    drop(one);
    let after_death = leads(&world, "two").await?;
    let three = world.lead(named("three"));
    three.knows_leader().await?;
    two.stop().await;
    let after_stop = leads(&world, "three").await?;
    println!(
        "a lease of {:?}: taken {after_death:?} after a death, {after_stop:?} after a stop",
        settings().lease_timings.duration
    );
    assert!(after_stop < settings().lease_timings.duration);
    three.stop().await;
    assert_eq!(leader(&world).await?.as_deref(), Some(""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leadership_nothing_is_written() -> Result<()> {
    let world = World::new("gate", 41).await?;
    let gate = WriteGate::closed();
    let store = world.store.clone().with_write_gate(gate.clone());
    let (address, pod) = (world.address(1), world.pod_name("a"));
    let refused = store.acquire(address, &world.name, &pod).await;
    assert!(matches!(refused, Err(StoreError::NotLeading { .. })), "{refused:?}");
    gate.open_until(std::time::Instant::now() + Duration::from_secs(60));
    store.acquire(address, &world.name, &pod).await?;
    gate.close();
    assert!(store.mark_released(address, &pod).await.is_err());
    assert_eq!(world.held().await?.len(), 1);
    Ok(())
}

/// The namespace of the controller that the process is to be.
const CONTROLLER: &str = "HOLDFAST_TEST_CONTROLLER";

/// In the process that it starts, this test is a controller.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_stop_gives_the_lease_back() -> Result<()> {
    if let Ok(namespace) = std::env::var(CONTROLLER) {
        let arguments = ["--conf=/none", "--health=127.0.0.1:0", "--pod-namespace", &namespace];
        return run::controller(&ControllerArgs::parse(&arguments)?).await;
    }
    let world = World::new("sigterm", 42).await?;
    let test = "election::a_process_that_is_told_to_stop_gives_the_lease_back";
    let mut process = Server::get()?.process(test, &[(CONTROLLER, &world.name)])?;
    let held = || async {
        let holder = leader(&world).await?;
        Ok((holder.as_ref().is_some_and(|holder| !holder.is_empty()), holder))
    };
    wait("the process to lead", SOON, held).await?;
    kill(Pid::from_raw(process.0.id().try_into()?), Signal::SIGTERM)?;
    let ended = || {
        let ended = process.0.try_wait();
        async { Ok((ended?.is_some(), ())) }
    };
    let took = wait("the process to end", SOON, ended).await?;
    let status = process.0.try_wait()?.context("it has ended")?;
    assert!(status.success(), "it ended with {status}, signal {:?}", status.signal());
    assert_eq!(leader(&world).await?.as_deref(), Some(""), "the lease was not given back");
    println!("ended {took:?} after its SIGTERM");
    Ok(())
}
