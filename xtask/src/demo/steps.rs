//! The demo's steps, in their order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::scene::{Holder, POD, SET, Scene, fact, set, show};
use crate::deploy::NAMESPACE;
use crate::progress::{Poll, output};

pub(super) fn create(scene: &mut Scene<'_>) -> Result<()> {
    scene.title("A StatefulSet gets addresses of the LAN");
    scene.cluster.apply(&set().to_string())?;
    let holder = scene.holder("the pod", |_| true)?;
    show(&holder);
    scene.in_pool(&holder)?;
    scene.reach_from_lan(&holder)
}

pub(super) fn restart_sandbox(scene: &mut Scene<'_>) -> Result<()> {
    scene.title("Its sandbox dies: the pause process is killed");
    let before = scene.holder("the pod", |_| true)?;
    let kill = format!("{} && kill -9 \"$pid\"", pause_of(&before));
    output(&mut scene.cluster.on_node(&before.node, &kill)?)?;
    let after = scene.holder("the new sandbox", |now| now.container != before.container)?;
    Scene::same_address(&before, &after)?;
    ensure!(before.uid == after.uid, "the pod should be the same");
    show(&after);
    scene.in_pool(&after)?;
    fact("same pod, same address, new container");
    scene.reach_from_lan(&after)
}

pub(super) fn delete_pod(scene: &mut Scene<'_>) -> Result<()> {
    scene.title("The pod is deleted and created again");
    let before = scene.holder("the pod", |_| true)?;
    scene.cluster.run(&["delete", "pod", POD, "--wait=false"])?;
    let after = scene.holder("the new pod", |now| now.uid != before.uid)?;
    Scene::same_address(&before, &after)?;
    show(&after);
    scene.in_pool(&after)?;
    fact("new pod, same address, new container");
    scene.reach_from_lan(&after)
}

pub(super) fn move_pod(scene: &mut Scene<'_>) -> Result<()> {
    scene.title("Its node is cordoned and the pod deleted: it moves");
    let before = scene.holder("the pod", |_| true)?;
    scene.reach_from_lan(&before)?;
    scene.cluster.run(&["cordon", &before.node])?;
    let moved = (|| {
        scene.cluster.run(&["delete", "pod", POD, "--wait=false"])?;
        scene.holder("the pod on the other node", |now| now.uid != before.uid)
    })();
    scene.cluster.run(&["uncordon", &before.node])?;
    let after = moved?;
    Scene::same_address(&before, &after)?;
    ensure!(before.node != after.node, "the pod is still on {}", after.node);
    show(&after);
    scene.in_pool(&after)?;
    fact(format!("same address, from {} to {}", before.node, after.node));
    scene.reach_from_lan(&after)
}

/// Makes a second sandbox for the pod, like a runtime that lost track of the first. The first is stale from then on.
pub(super) fn stale_container(scene: &mut Scene<'_>) -> Result<()> {
    scene.title("A newer sandbox takes the address while the old container still runs");
    let before = scene.holder("the pod", |_| true)?;
    let address = before.ipv4.split('/').next().unwrap_or_default().to_owned();
    let since = Instant::now();
    output(&mut scene.cluster.on_node(&before.node, &plugin("ADD", &before))?)?;
    let newer = current(scene)?;
    ensure!(newer.generation > before.generation, "the newer sandbox did not take over: {newer:?}");
    show(&newer);
    let send =
        format!("{} && nsenter -t \"$pid\" -n ping -n -c 2 -W 1 -I {address} {}", pause_of(&before), neighbour(scene));
    ensure!(
        !scene.cluster.on_node(&before.node, &send)?.output()?.status.success(),
        "the old container was still heard"
    );
    fact("the old container pings: nothing comes through");
    let seen = scene.progress.wait("the agent's word on it", Duration::from_secs(10), || {
        let seconds = format!("--since={}s", since.elapsed().as_secs() + 2);
        let agent = agent_on(scene, &before.node)?;
        let log = scene.cluster.run(&["-n", NAMESPACE, "logs", &agent, &seconds])?;
        Ok(log
            .lines()
            .find(|line| line.contains("Stale"))
            .map_or(Poll::Pending("nothing yet".into()), |line| Poll::Ready(line.to_owned())))
    })?;
    let seen: Value = serde_json::from_str(&seen).context("the agent's log is not JSON")?;
    fact(format!("the agent reports: {} (address {}, dropped {})", seen["message"], seen["address"], seen["dropped"]));
    output(&mut scene.cluster.on_node(&before.node, &plugin("DEL", &before))?)?;
    scene.cluster.run(&["delete", "pod", POD, "--wait=false"])?;
    let after = scene.holder("the pod again", |now| now.uid != before.uid)?;
    Scene::same_address(&before, &after)?;
    show(&after);
    scene.reach_from_lan(&after)
}

pub(super) fn delete_set(scene: &mut Scene<'_>) -> Result<()> {
    scene.title("The StatefulSet is deleted: its addresses come back");
    let begun = Instant::now();
    scene.cluster.run(&["delete", "statefulset", SET, "--wait=false"])?;
    scene.progress.wait("the endpoints to go", Duration::from_secs(60), || {
        let endpoints = scene.cluster.run(&["get", "se", "-o", "name"])?;
        Ok(if endpoints.trim().is_empty() { Poll::Ready(()) } else { Poll::Pending(endpoints) })
    })?;
    scene.cluster.wait_for(
        scene.progress,
        "the pool to be empty",
        &["sp", "default-v4-ippool"],
        Duration::from_secs(60),
        |pool| match pool.map(|pool| &pool["status"]["allocatedIPCount"]) {
            Some(count) if count == 0 => Ok(()),
            count => Err(format!("it shows {count:?} addresses in use")),
        },
    )?;
    fact(format!(
        "endpoints NotFound and pool empty after {:.1} s, pods' own shutdown included",
        begun.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// Returns shell text that sets `pid` to the sandbox's own process, found by the container ID in its cgroup.
fn pause_of(holder: &Holder) -> String {
    let id = &holder.container;
    format!("pid=$(grep -l {id} /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3 | head -n 1) && test -n \"$pid\"")
}

/// Returns shell text that calls the CNI plugin as a runtime would, for a sandbox of the demo's own.
fn plugin(verb: &str, holder: &Holder) -> String {
    let netns = "holdfast-demo";
    let (before, after) = match verb {
        "ADD" => (format!("ip netns add {netns} && "), String::new()),
        _ => (String::new(), format!(" && ip netns del {netns}")),
    };
    let conf = r#"{"cniVersion":"1.0.0","name":"holdfast","type":"holdfast"}"#;
    format!(
        "{before}echo '{conf}' | CNI_COMMAND={verb} CNI_CONTAINERID=holdfast-demo CNI_NETNS=/run/netns/{netns} CNI_IFNAME=eth0 \
         CNI_PATH=/opt/cni/bin CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={POD};K8S_POD_UID={uid}' \
         /opt/cni/bin/holdfast{after}",
        uid = holder.uid
    )
}

/// Returns the holder that the endpoint names, even if the pod is not ready.
fn current(scene: &Scene<'_>) -> Result<Holder> {
    scene.holder("the newer sandbox", |now| now.container == "holdfast-demo")
}

/// Returns an address to ping: the LAN's host in the laboratory, otherwise the node.
fn neighbour(scene: &Scene<'_>) -> String {
    match scene.cluster {
        crate::cluster::Cluster::Lab(_) => "172.22.0.100".to_owned(),
        _ => "169.254.1.1".to_owned(),
    }
}

fn agent_on(scene: &Scene<'_>, node: &str) -> Result<String> {
    let selector = ["-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/component=holdfast-agent"];
    let field = format!("--field-selector=spec.nodeName={node}");
    let pods = scene.cluster.get(&[&selector[..], &[&field]].concat())?;
    let name = pods.as_ref().and_then(|pods| pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned));
    match name {
        Some(name) => Ok(name),
        None => bail!("no agent runs on {node}"),
    }
}
