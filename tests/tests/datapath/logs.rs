//! What the programs log.

use std::{
    sync::mpsc::{Sender, channel},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_core::guard_mode::GuardMode;
use holdfast_guard::{Config, Datapath};
use holdfast_tests::{frames, guarded::Node};
use log::{LevelFilter, Log, Metadata, Record};

const LIMIT: Duration = Duration::from_secs(5);

struct Lines(Sender<String>);

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with("holdfast") {
            // Nobody listens any more once the test is over.
            let _ = self.0.send(format!("{} {} {}", record.level(), record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// The only test that sets the process's logger.
#[test]
fn a_frame_cut_short_is_in_the_debug_log() -> Result<()> {
    let (sender, lines) = channel();
    log::set_boxed_logger(Box::new(Lines(sender))).context("there is another logger")?;
    log::set_max_level(LevelFilter::Debug);
    let node = Node::new()?;
    let config = Config { logs: true, ..node.config() };
    let (guard, _events) = node.host.run(|| Datapath::open(&config))??;
    let pod = node.pod("a")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    let logs = guard.logs()?.context("the log is on")?;
    ensure!(guard.logs()?.is_none(), "there is one reader");
    let frame = frames::ethernet(pod.socket.mac(), 0x0806, &[0; 10]);
    node.stops(&pod, &[frame])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let line = runtime.block_on(async {
        let forwarding = tokio::spawn(logs.forward());
        let line = tokio::task::spawn_blocking(move || lines.recv_timeout(LIMIT)).await;
        forwarding.abort();
        line
    })??;
    let expected = format!("DEBUG holdfast::guard link {}: dropped a frame of 24 bytes that is cut short", pod.link);
    ensure!(line == expected, "{line}");
    Ok(())
}

#[test]
fn without_debug_nothing_is_logged() -> Result<()> {
    let node = Node::new()?;
    let (guard, _events) = node.open()?;
    ensure!(guard.logs()?.is_none());
    Ok(())
}
