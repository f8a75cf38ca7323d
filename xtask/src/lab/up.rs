//! From nothing to a cluster whose nodes are registered.
//!
//! ```text
//! certificates ─ network ─┬─ etcd, API server ───────────┬─ controllers, scheduler ─┬─ wait for both
//!                         ├─ node1: containerd, images ──┼─ kubelet, kube-proxy ────┤
//!                         └─ node2: containerd, images ──┴─ kubelet, kube-proxy ────┘
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::control_plane::ControlPlane;
use super::description::{Description, Networks};
use super::layout::{CP, LAN, Layout, NODES};
use super::node::Node;
use super::node_files::NodeFiles;
use super::{down, network, pki};
use crate::progress::Progress;
use crate::setup::{self, Release};

/// Makes the laboratory, unless it is up already. The caller holds the lock.
pub(super) fn up(layout: &Layout, release: Release, progress: &Progress) -> Result<Description> {
    if let Some(description) = Description::read(&layout.state)? {
        let (there, wanted) = (&description.kubernetes, release.version()?);
        ensure!(
            there == wanted,
            "the laboratory {} runs Kubernetes {there}, not {wanted}; `{} down` removes it",
            layout.name,
            layout.command()
        );
        let ended = ControlPlane::new(layout, &description.programs)?.ended();
        if ended.is_empty() {
            return complete(layout, &description.programs, progress);
        }
        progress.log(format!("{} has lost its control plane ({}): making it new", layout.name, ended.join(", ")));
    }
    recreate(layout, release, progress)
}

/// Makes the laboratory, whatever is left of an earlier one. The caller holds the lock.
pub(super) fn recreate(layout: &Layout, release: Release, progress: &Progress) -> Result<Description> {
    let parts = setup::parts(release, progress)?;
    progress.log(format!("the laboratory {} runs Kubernetes {}", layout.name, release.version()?));
    down::clear(layout, progress)?;
    let description = start(layout, release, &parts, progress).with_context(|| {
        format!(
            "the laboratory {} did not come up; logs: {}; `{} down` removes it",
            layout.name,
            layout.state.display(),
            layout.command()
        )
    })?;
    progress.log(format!("the laboratory {} is up: {}", layout.name, layout.state.display()));
    Ok(description)
}

/// Switches on what is off in a laboratory whose control plane runs.
fn complete(layout: &Layout, programs: &Path, progress: &Progress) -> Result<Description> {
    for place in NODES {
        let node = Node::new(layout, place, programs);
        if node.leader_pid().is_none() {
            node.power_on(progress)?;
        } else if !node.ended().is_empty() {
            node.start_runtime(progress)?;
        }
    }
    progress.log(format!("the laboratory {} is up already", layout.name));
    Description::read(&layout.state)?.context("the laboratory went away while it was looked at")
}

/// Returns the services that should run and do not.
pub(super) fn ended(layout: &Layout, programs: &Path) -> Result<Vec<String>> {
    let mut all: Vec<String> = ControlPlane::new(layout, programs)?.ended().into_iter().map(str::to_owned).collect();
    for place in NODES {
        let node = Node::new(layout, place, programs);
        all.extend(node.ended().into_iter().map(|service| format!("{} on {}", service, place.name)));
    }
    Ok(all)
}

fn start(layout: &Layout, release: Release, parts: &Path, progress: &Progress) -> Result<Description> {
    fs::create_dir_all(&layout.state)?;
    // Keys are in it.
    fs::set_permissions(&layout.state, fs::Permissions::from_mode(0o700))?;
    pki::create(&layout.pki()).context("making certificates")?;
    network::create(layout)?;
    progress.log("certificates and network: made");

    let programs = parts.join("bin");
    let control_plane = ControlPlane::new(layout, &programs)?;
    let nodes = NODES.map(|place| Node::new(layout, place, &programs));
    side_by_side(layout, parts, &control_plane, &nodes, progress)?;
    control_plane.start_controllers()?;
    for node in &nodes {
        node.start_kubernetes()?;
    }
    control_plane.wait_for_cluster(progress)?;

    let description = Description {
        name: layout.name.clone(),
        kubernetes: release.version()?.to_owned(),
        kubeconfig: layout.kubeconfig(),
        state_dir: layout.state.clone(),
        programs: programs.clone(),
        netns: Networks { cp: layout.netns(CP), lan: layout.netns(LAN) },
        nodes: nodes.iter().map(Node::description).collect(),
    };
    description.write()?;
    Ok(description)
}

/// Starts side by side what is independent: the API server, and each node up to its container runtime with its images.
fn side_by_side(
    layout: &Layout,
    parts: &Path,
    control_plane: &ControlPlane<'_>,
    nodes: &[Node],
    progress: &Progress,
) -> Result<()> {
    std::thread::scope(|scope| {
        let mut tasks = vec![scope.spawn(|| control_plane.serve(progress))];
        for (node, place) in nodes.iter().zip(NODES) {
            tasks.push(scope.spawn(move || {
                NodeFiles::new(layout, place).create(layout, place, parts)?;
                node.boot()?;
                node.start_containerd(progress)?;
                for image in ["pause.tar", "busybox.tar"] {
                    node.load_image(&parts.join("images").join(image))?;
                }
                progress.log(format!("{}: container runtime and images ready", node.name()));
                Ok(())
            }));
        }
        tasks.into_iter().try_for_each(|task| task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
