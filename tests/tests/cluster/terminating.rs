//! Pods past their grace period on a node whose runtime is stuck: their containers run on, and hold no addresses.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::unistd::Pid;
use serde_json::{Value, json};
use xtask::progress::Poll;

use crate::namespace::{TestNamespace, same};
use crate::nodes::{self, RuntimeAway};
use crate::{manifest, sandbox, traffic};

/// The pods' grace period, and the collector's delay after it.
const ALLOWED: Duration = Duration::from_secs(1 + 5);

/// Returns whether a host on the LAN answers a process, or nothing if it does so at one of its addresses only.
fn answered(process: Pid) -> Result<Option<bool>> {
    let net = format!("--net=/proc/{process}/ns/net");
    let mut answers = Vec::new();
    for address in traffic::LAN {
        let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-w", "1", address];
        answers.push(Command::new("nsenter").arg(&net).args(ping).output()?.status.success());
    }
    Ok(answers.iter().all(|answer| *answer == answers[0]).then_some(answers[0]))
}

/// Another pod comes and goes: the controller and both agents have been at work meanwhile.
fn others_go_on(namespace: &TestNamespace, node: &str) -> Result<()> {
    namespace.apply(manifest::on_node(manifest::pod("other"), node))?;
    namespace.ready("other")?;
    namespace.kubectl(&["delete", "pod", "other", "--force", "--grace-period=0"])?;
    namespace.freed("other", 10)
}

#[test]
fn a_pod_past_its_grace_period_loses_its_addresses() -> Result<()> {
    let namespace = TestNamespace::exclusive("stuck", 6)?;
    let world = namespace.world;
    let [node, other] = nodes::both(world)?;
    namespace.apply(manifest::on_node(manifest::stateful_set("web", 1), &node))?;
    namespace.apply(manifest::on_node(manifest::pod("plain"), &node))?;
    let (sticky, plain) = (namespace.ready("web-0")?, namespace.ready("plain")?);
    let processes = [sandbox::process_of(&sticky.container)?, sandbox::process_of(&plain.container)?];
    for process in processes {
        ensure!(answered(process)? == Some(true), "the LAN's host should answer while the pod runs");
    }

    let away = RuntimeAway::on(world, &node)?;
    let since = Instant::now();
    namespace.kubectl(&["delete", "pod", "web-0", "plain", "--grace-period=1", "--wait=false"])?;
    let endpoint = namespace.reserved("web-0", &sticky, ALLOWED.as_secs() + 10)?;
    ensure!(since.elapsed() >= ALLOWED, "the pod lost its addresses after {:?} already", since.elapsed());
    same("the reason", &endpoint["status"]["history"][0]["reason"], &json!("TerminatingTimeout"))?;
    namespace.freed("plain", 10)?;
    for process in processes {
        namespace.wait("the containers that run on to be cut off", 5, || {
            let cut_off = answered(process)? == Some(false);
            Ok(if cut_off { Poll::Ready(()) } else { Poll::Pending("it is heard".into()) })
        })?;
    }

    // They stay cut off and get nothing back, however often they send.
    let generation = |endpoint: &Value| endpoint["status"]["current"]["generation"].clone();
    for _ in 0..2 {
        others_go_on(&namespace, &other)?;
        for process in processes {
            ensure!(answered(process)? == Some(false), "a container that lost its addresses is heard again");
        }
        let now = namespace.reserved("web-0", &sticky, 0)?;
        same("the generation", &generation(&now), &generation(&endpoint))?;
        ensure!(namespace.endpoint("plain")?.is_none(), "the other pod has an endpoint again");
    }

    away.back()?;
    let after = namespace.ready_as("web-0", |now| now.uid != sticky.uid)?;
    sticky.sticks(&after)?;
    traffic::reaches(world, &after)?;
    namespace.finish()
}
