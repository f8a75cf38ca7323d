//! A node: a machine's worth of namespaces with containerd, a kubelet and kube-proxy, to be switched off, cut and started again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cgroup::Cgroup;
use super::description::{Description, NodeDescription};
use super::layout::{Layout, Place};
use super::network;
use super::node_files::{NodeFiles, PROGRAMS, SOCKET};
use super::node_root;
use super::process::Service;
use crate::progress::{Poll, Progress, output};

const LEADER: &str = "leader";
const CONTAINERD: &str = "containerd";
const KUBELET: &str = "kubelet";
const PROXY: &str = "kube-proxy";
/// The line that containerd logs once its CRI answers. Before that, while it recovers its sandboxes, a kubelet that asks is refused
/// and gives up.
const CRI_READY: &str = "Start streaming server";
const CONTAINERD_WITHIN: Duration = Duration::from_secs(60);

/// A node of a laboratory, on or off.
pub struct Node {
    layout: Layout,
    place: Place,
    folder: PathBuf,
    programs: PathBuf,
}

impl Node {
    /// Returns the node at `place`, which is to run the programs in `programs`.
    pub(super) fn new(layout: &Layout, place: Place, programs: &Path) -> Self {
        Self { layout: layout.clone(), place, folder: layout.folder(place), programs: programs.to_owned() }
    }

    /// Returns its name in Kubernetes.
    pub fn name(&self) -> &str {
        self.place.name
    }

    /// Returns its address on the LAN.
    pub fn ip(&self) -> &str {
        self.place.ip
    }

    /// Returns the PID of a process in its namespaces; none while it is off.
    pub fn leader_pid(&self) -> Option<i32> {
        self.service(LEADER).running().map(|process| process.pid)
    }

    /// Returns a command in the node's mount, network and host name namespaces, with the laboratory's programs in its
    /// path.
    ///
    /// While the node is off the command fails when it is run.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.entered();
        command.args(arguments);
        command
    }

    /// Ends kubelet and containerd. Pods go on, and so does kube-proxy, which on other clusters is one.
    pub fn stop_runtime(&self, progress: &Progress) -> Result<()> {
        for name in [KUBELET, CONTAINERD] {
            if let Some(process) = self.service(name).running() {
                process.end(&format!("{name} on {}", self.name()), progress)?;
            }
        }
        progress.log(format!("{}: kubelet and containerd stopped", self.name()));
        Ok(())
    }

    /// Starts containerd and the kubelet where they do not run.
    pub fn start_runtime(&self, progress: &Progress) -> Result<()> {
        self.start_containerd(progress)?;
        self.start_kubernetes()?;
        progress.log(format!("{}: containerd and kubelet started", self.name()));
        Ok(())
    }

    /// Kills everything on the node at once and unplugs it, as a power cut does. Its disk stays.
    pub fn power_off(&self, progress: &Progress) -> Result<()> {
        self.cut(progress)?;
        self.describe_leader(0, progress)?;
        progress.log(format!("{}: off", self.name()));
        Ok(())
    }

    /// Boots the node again: new namespaces, empty /run and BPF file system, a new boot ID, the same disk.
    pub fn power_on(&self, progress: &Progress) -> Result<()> {
        if self.leader_pid().is_some() {
            progress.log(format!("{}: is on", self.name()));
            return Ok(());
        }
        // Something may be left of it, if the leader alone was killed or it did not boot to the end.
        self.cut(progress)?;
        network::connect(&self.layout, self.place)?;
        let leader = self.boot()?;
        self.describe_leader(leader, progress)?;
        self.start_runtime(progress)
    }

    fn cut(&self, progress: &Progress) -> Result<()> {
        let cgroup = self.cgroup()?;
        cgroup.kill(progress)?;
        cgroup.remove(progress)?;
        network::disconnect(&self.layout, self.place)
    }

    /// Makes the node's namespaces, held by a process that does nothing else; returns its PID.
    pub(super) fn boot(&self) -> Result<i32> {
        let cgroup = self.cgroup()?;
        cgroup.create()?;
        let files = NodeFiles::new(&self.layout, self.place);
        files.boot()?;
        let (service, netns) = (self.service(LEADER), self.layout.netns(self.place));
        // Inside, the cache may lie under a folder of the node's own.
        let log = service.open_log()?;
        let leader = node_root::enter_and(&netns, self.name(), &files, &self.programs, || {
            service.spawn(log, Command::new("sleep").arg("infinity"), &cgroup)
        });
        let leader = leader.with_context(|| format!("making the namespaces of {}", self.name()))?;
        service.keep_record(leader)?;
        Ok(leader.pid)
    }

    /// Starts containerd and waits until it answers.
    pub(super) fn start_containerd(&self, progress: &Progress) -> Result<()> {
        let service = self.service(CONTAINERD);
        if service.running().is_none() {
            service.start(&self.exec(&["containerd", "--config", "/etc/containerd/config.toml"]), &self.cgroup()?)?;
        }
        progress.wait(&format!("containerd on {}", self.name()), CONTAINERD_WITHIN, || {
            service.check()?;
            Ok(match output(&mut self.exec(&["ctr", "--connect-timeout", "1s", "version"])) {
                Ok(_) if service.has_said(CRI_READY) => Poll::Ready(()),
                Ok(_) => Poll::Pending("its CRI is not ready".into()),
                Err(error) => Poll::Pending(error.to_string()),
            })
        })
    }

    /// Starts the kubelet and kube-proxy where they do not run.
    pub(super) fn start_kubernetes(&self) -> Result<()> {
        self.start_kubelet()?;
        let service = self.service(PROXY);
        if service.running().is_none() {
            let command = self.exec(&["kube-proxy", "--config=/etc/kubernetes/proxy.json", "--v=2"]);
            service.start(&command, &self.cgroup()?)?;
        }
        Ok(())
    }

    fn start_kubelet(&self) -> Result<()> {
        let service = self.service(KUBELET);
        if service.running().is_some() {
            return Ok(());
        }
        let mut command = self.exec(&[
            "kubelet",
            "--config=/etc/kubernetes/kubelet.json",
            "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
            &format!("--hostname-override={}", self.name()),
            &format!("--node-ip={}", self.ip()),
            "--v=2",
        ]);
        // The kubelet would ask a cloud's metadata service for credentials, for minutes.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        service.start(&command, &self.cgroup()?).map(drop)
    }

    /// Makes the image in `archive` known to the node's containerd.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let file = std::fs::File::open(archive).with_context(|| format!("opening the image {}", archive.display()))?;
        let mut import =
            self.exec(&["ctr", "--namespace", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-"]);
        let result = import.stdin(file).output()?;
        anyhow::ensure!(
            result.status.success(),
            "loading {} on {}: {}",
            archive.display(),
            self.name(),
            String::from_utf8_lossy(&result.stderr).trim()
        );
        Ok(())
    }

    /// Returns its description for `lab.json`.
    pub(super) fn description(&self) -> NodeDescription {
        NodeDescription {
            name: self.name().to_owned(),
            ip: self.ip().to_owned(),
            ip6: self.place.ip6.to_owned(),
            netns: self.layout.netns(self.place),
            cgroup: self.layout.label(self.place),
            containerd_socket: SOCKET.into(),
            leader_pid: self.leader_pid().unwrap_or(0),
            log_dir: self.layout.logs(self.place),
        }
    }

    /// Returns the names of services that should run and do not.
    pub(super) fn ended(&self) -> Vec<&'static str> {
        [LEADER, CONTAINERD, KUBELET, PROXY].into_iter().filter(|name| self.service(name).running().is_none()).collect()
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::new(&self.layout.label(self.place))
    }

    fn service<'s>(&'s self, name: &'s str) -> Service<'s> {
        Service { name, folder: &self.folder }
    }

    fn entered(&self) -> Command {
        let Some(leader) = self.leader_pid() else {
            let mut refusal = Command::new("sh");
            refusal.args(["-c", r#"echo "the node $0 is off" >&2; exit 1"#, self.name()]);
            return refusal;
        };
        let mut command = Command::new("nsenter");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["--target", &leader.to_string(), "--mount", "--uts", "--net"]);
        command.args(["--", "env", &format!("PATH={PROGRAMS}:{path}")]);
        command
    }

    fn describe_leader(&self, leader: i32, progress: &Progress) -> Result<()> {
        Description::change(&self.layout.state, progress, |description| {
            for node in description.nodes.iter_mut().filter(|node| node.name == self.name()) {
                node.leader_pid = leader;
            }
        })
    }
}
