//! The time from the end of a sandbox's process to the agent.

use std::{
    process::{Child, Command},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_guard::{EventKind, sandbox_ended};
use holdfast_tests::guarded::Node;

use crate::latency::{line, listen, now};

const DEATHS: u64 = 200;
const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<()> {
    println!("\n# Sandboxes killed: {DEATHS} each way");
    by_tracepoint()?;
    by_pidfd()
}

fn by_tracepoint() -> Result<()> {
    let node = Node::new()?;
    let (guard, reports) = node.open()?;
    if !guard.watches_sandboxes() {
        println!("this kernel does not report the end of processes");
        return Ok(());
    }
    let (mut seen, mut heard) = (Vec::new(), Vec::new());
    listen(reports, |next| {
        for tag in 0..DEATHS {
            let mut sandbox = sandbox()?;
            guard.watch_sandbox(sandbox.id(), tag)?;
            let killed = now()?;
            sandbox.kill()?;
            let (event, at) = next()?;
            ensure!((event.kind, event.container_tag) == (EventKind::SandboxExit, tag), "{event:?}");
            seen.push(Duration::from_nanos(event.timestamp_ns).saturating_sub(killed));
            heard.push(at.saturating_sub(killed));
            sandbox.wait()?;
        }
        Ok(())
    })?;
    line("killed → tracepoint", &mut seen);
    line("killed → event heard", &mut heard);
    Ok(())
}

fn by_pidfd() -> Result<()> {
    let mut heard = Vec::new();
    for _ in 0..DEATHS {
        let mut sandbox = sandbox()?;
        let process = sandbox.id();
        let (waits, ready) = mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut ended = std::pin::pin!(sandbox_ended(process));
                // Once polled, it waits.
                let poll = futures::poll!(&mut ended);
                ensure!(poll.is_pending(), "the process has ended already");
                waits.send(())?;
                ended.await?;
                now()
            })
        });
        ready.recv_timeout(LIMIT).context("the waiter did not begin")?;
        let killed = now()?;
        sandbox.kill()?;
        let at = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
        heard.push(at.saturating_sub(killed));
        sandbox.wait()?;
    }
    line("killed → pidfd readable", &mut heard);
    Ok(())
}

fn sandbox() -> Result<Child> {
    Command::new("sleep").arg("1000").spawn().context("cannot start `sleep`")
}
