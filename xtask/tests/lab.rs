//! The laboratory keeps its promises: nodes of their own, mounts that travel, power cuts, and nothing left behind.
//!
//! Needs root and the laboratory's parts, so it is built by name only: `cargo xtask test lab`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::lab::{Lab, of_checkout};
use xtask::progress::{Poll, Progress, output};
use xtask::setup::Release;

const WITHIN: Duration = Duration::from_secs(60);
/// A pod like an agent's.
const AGENT: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      hostPID: true
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 0
      containers:
      - name: agent
        image: busybox:1
        command: [sleep, infinity]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: plugins, mountPath: /opt/cni/bin}
        - {name: conf, mountPath: /etc/cni/net.d}
        - {name: run, mountPath: /run, mountPropagation: HostToContainer}
        - {name: bpf, mountPath: /sys/fs/bpf, mountPropagation: Bidirectional}
        - {name: state, mountPath: /var/lib/holdfast}
      volumes:
      - {name: plugins, hostPath: {path: /opt/cni/bin}}
      - {name: conf, hostPath: {path: /etc/cni/net.d}}
      - {name: run, hostPath: {path: /run}}
      - {name: bpf, hostPath: {path: /sys/fs/bpf}}
      - {name: state, hostPath: {path: /var/lib/holdfast}}
---
apiVersion: v1
kind: Pod
metadata: {name: guest}
spec:
  nodeName: node1
  tolerations: [{operator: Exists}]
  containers: [{name: guest, image: "busybox:1", command: [sleep, infinity]}]
"#;
const NETWORK: &str = r#"{"cniVersion":"0.4.0","name":"n","plugins":[
    {"type":"ptp","ipam":{"type":"host-local","ranges":[[{"subnet":"10.9.0.0/24"}]]}}]}"#;

#[test]
fn a_laboratory_from_up_to_down() -> Result<()> {
    let progress = Progress::new();
    let before = kernel_settings();
    let name = of_checkout("selftest");
    let lab = Lab::recreate(&name, Release::of_environment()?, &progress)?;

    let checked = its_name_is_taken(&lab)
        .and_then(|()| another_comes_and_goes(&lab, &progress))
        .and_then(|()| agent_sees_the_node(&lab))
        .and_then(|()| pods_survive_the_runtime(&lab, &progress))
        .and_then(|()| power_comes_back(&lab, &progress))
        .and_then(|()| half_a_node_boots(&lab, &progress));
    taken_down(lab, &progress)?;
    checked?;

    assert_eq!(kernel_settings(), before, "settings of the host have changed");
    Lab::remove(&name, &progress)
}

/// Checks that the laboratory's lock is held, so that a second run of the same tests waits.
fn its_name_is_taken(lab: &Lab) -> Result<()> {
    let lock = lab.description().state_dir.with_extension("lock");
    let taken = !Command::new("flock").arg("--nonblock").arg(&lock).arg("true").status()?.success();
    ensure!(lock.exists() && taken, "others could take {} down", lab.description().name);
    Ok(())
}

/// Runs a second laboratory of the same addresses beside the first, as another checkout does.
fn another_comes_and_goes(lab: &Lab, progress: &Progress) -> Result<()> {
    let other = Lab::recreate(&of_checkout("selftest2"), Release::of_environment()?, progress)?;
    let checked = cluster(lab).and_then(|first| {
        ensure!(first != cluster(&other)?, "both names lead to one cluster");
        output(&mut lab.kubectl(&["create", "namespace", "mine"]))?;
        let there = output(&mut other.kubectl(&["get", "namespace", "mine", "--ignore-not-found", "-o", "name"]))?;
        ensure!(there.is_empty(), "what is made in one is in the other too");
        Ok(first)
    });
    taken_down(other, progress)?;
    ensure!(checked? == cluster(lab)?, "another cluster answers than before");
    output(&mut lab.kubectl(&["get", "nodes", "node1", "node2"])).map(drop)
}

/// Returns the identity of the cluster that answers.
fn cluster(lab: &Lab) -> Result<String> {
    output(&mut lab.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]))
}

/// Takes it down and checks that nothing of it is left.
fn taken_down(lab: Lab, progress: &Progress) -> Result<()> {
    let description = lab.description().clone();
    lab.down(progress)?;
    ensure!(!description.state_dir.exists(), "its state is left");
    let labels = format!("hf-{}-*", description.name);
    let cgroups = output(Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", &labels]))?;
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups}");
    let networks = output(Command::new("ip").args(["netns", "list"]))?;
    ensure!(!networks.contains(labels.trim_end_matches('*')), "networks are left: {networks}");
    Ok(())
}

/// Checks that a privileged pod of the node's network runs before there is a CNI configuration, installs one, and sees
/// a pod's namespace.
fn agent_sees_the_node(lab: &Lab) -> Result<()> {
    apply(lab)?;
    output(&mut lab.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"]))?;
    let list = ["get", "pods", "-l", "app=agent", "--field-selector", "spec.nodeName=node1", "-o", "name"];
    let pod = output(&mut lab.kubectl(&list))?;
    let agent = |script: &str| output(&mut lab.kubectl(&["exec", pod.trim(), "--", "sh", "-c", script]));

    ensure!(agent("ls /opt/cni/bin")?.contains("host-local"));
    ensure!(agent("ls /etc/cni/net.d")?.is_empty(), "a node starts without a CNI configuration");
    agent("mkdir /sys/fs/bpf/holdfast && touch /var/lib/holdfast/mark")?;
    let node = lab.node("node1")?;
    output(&mut node.exec(&["ls", "-d", "/sys/fs/bpf/holdfast", "/var/lib/holdfast/mark"]))?;
    ensure!(!Path::new("/sys/fs/bpf/holdfast").exists() && !Path::new("/var/lib/holdfast/mark").exists());

    agent(&format!("echo '{NETWORK}' > /etc/cni/net.d/10-test.conflist"))?;
    output(&mut lab.kubectl(&["wait", "--for=condition=Ready", "pod/guest", "--timeout=60s"]))?;
    let inside = agent("for net in /run/netns/*; do nsenter --net=$net ip addr show eth0; done")?;
    ensure!(inside.contains("10.9.0."), "the agent does not reach the pod's network namespace: {inside}");
    Ok(())
}

fn pods_survive_the_runtime(lab: &Lab, progress: &Progress) -> Result<()> {
    let node = lab.node("node1")?;
    let tasks = || -> Result<Vec<String>> {
        let list = output(&mut node.exec(&["ctr", "--namespace", "k8s.io", "tasks", "list"]))?;
        let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    let before = tasks()?;
    node.stop_runtime(progress)?;
    node.start_runtime(progress)?;
    ensure!(tasks()? == before, "containers went with the runtime, which had {before:?}");
    Ok(())
}

/// Checks that a power cut leaves the disk unchanged and clears everything in memory.
fn power_comes_back(lab: &Lab, progress: &Progress) -> Result<()> {
    let node = lab.node("node1")?;
    let boot = || output(&mut lab.kubectl(&["get", "node", "node1", "-o", "jsonpath={.status.nodeInfo.bootID}"]));
    let first = boot()?;
    node.power_off(progress)?;
    ensure!(node.leader_pid().is_none() && !node.exec(&["true"]).status()?.success());
    ensure!(!lab.in_lan(&["ping", "-c1", "-W1", node.ip()]).stdout(Stdio::null()).status()?.success());
    node.power_on(progress)?;
    output(&mut node.exec(&["test", "-e", "/var/lib/holdfast/mark", "-a", "!", "-e", "/sys/fs/bpf/holdfast"]))?;
    output(&mut lab.in_lan(&["ping", "-c1", "-W1", node.ip()]))?;
    progress.wait("the node's new boot", WITHIN, || {
        let now = boot()?;
        Ok(if now == first { Poll::Pending("the kubelet reports the old one".into()) } else { Poll::Ready(()) })
    })
}

/// Checks that a node whose leader alone was killed counts as off and boots again despite its remains.
fn half_a_node_boots(lab: &Lab, progress: &Progress) -> Result<()> {
    let node = lab.node("node2")?;
    let leader = node.leader_pid().context("node2 is on")?;
    output(Command::new("kill").args(["-KILL", &leader.to_string()]))?;
    progress.wait("the leader's end", WITHIN, || {
        Ok(if node.leader_pid().is_none() { Poll::Ready(()) } else { Poll::Pending("it runs".into()) })
    })?;
    node.power_on(progress)?;
    output(&mut node.exec(&["true"])).map(drop)
}

fn apply(lab: &Lab) -> Result<()> {
    let mut kubectl = lab.kubectl(&["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    kubectl.stdin.take().context("a pipe was asked for")?.write_all(AGENT.as_bytes())?;
    ensure!(kubectl.wait()?.success(), "kubectl apply failed");
    Ok(())
}

fn kernel_settings() -> Vec<String> {
    let names = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];
    names.iter().map(|name| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default()).collect()
}
