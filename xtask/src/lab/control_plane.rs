//! etcd, API server, controllers and scheduler, all in the control plane's network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::cgroup::Cgroup;
use super::layout::{API_PORT, CP, Layout, NODES, SERVICES};
use super::netns_command::kubectl;
use super::process::Service;
use crate::progress::{Poll, Progress, output};

const ETCD: &str = "http://127.0.0.1:2379";
/// The deadline for a start, which takes some four seconds on an idle machine.
const API_WITHIN: Duration = Duration::from_secs(120);
const CONTROLLERS_WITHIN: Duration = Duration::from_secs(120);

/// The processes of the control plane.
pub(super) struct ControlPlane<'a> {
    layout: &'a Layout,
    programs: &'a Path,
    folder: PathBuf,
    cgroup: Cgroup,
}

impl<'a> ControlPlane<'a> {
    /// Returns a control plane that runs the programs in `programs`.
    pub(super) fn new(layout: &'a Layout, programs: &'a Path) -> Result<Self> {
        let cgroup = Cgroup::new(&layout.label(CP))?;
        Ok(Self { layout, programs, folder: layout.folder(CP), cgroup })
    }

    /// Starts etcd and the API server and waits until the API is ready.
    pub(super) fn serve(&self, progress: &Progress) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        self.cgroup.create()?;
        self.start("etcd", "etcd", self.etcd())?;
        self.start("apiserver", "kube-apiserver", self.api_server())?;
        progress.wait("the API server", API_WITHIN, || {
            self.service("etcd").check()?;
            self.service("apiserver").check()?;
            Ok(match output(self.kubectl().args(["get", "--raw", "/readyz"])) {
                Ok(_) => Poll::Ready(()),
                Err(error) => Poll::Pending(error.to_string()),
            })
        })?;
        progress.log("API server: ready");
        Ok(())
    }

    /// Starts the controllers and the scheduler.
    pub(super) fn start_controllers(&self) -> Result<()> {
        self.start("controllers", "kube-controller-manager", self.controllers())?;
        self.start("scheduler", "kube-scheduler", self.scheduler())
    }

    /// Waits until the controllers work and every node is registered.
    pub(super) fn wait_for_cluster(&self, progress: &Progress) -> Result<()> {
        progress.wait("the controllers", CONTROLLERS_WITHIN, || {
            self.service("controllers").check()?;
            Ok(match output(self.kubectl().args(["-n", "default", "get", "serviceaccount", "default", "-o", "name"])) {
                Ok(_) => Poll::Ready(()),
                Err(_) => Poll::Pending("the default service account is not there".into()),
            })
        })?;
        progress.log("controllers: working");
        progress.wait("the nodes", CONTROLLERS_WITHIN, || {
            // A busy machine's API server may miss a call.
            let listed = match output(self.kubectl().args(["get", "nodes", "-o", "name"])) {
                Ok(listed) => listed,
                Err(error) => return Ok(Poll::Pending(error.to_string())),
            };
            let missing = NODES.iter().find(|node| !listed.lines().any(|line| line == format!("node/{}", node.name)));
            Ok(missing.map_or(Poll::Ready(()), |node| Poll::Pending(format!("{} is not registered", node.name))))
        })?;
        progress.log("nodes: registered");
        Ok(())
    }

    /// Returns the names of services that should run and do not.
    pub(super) fn ended(&self) -> Vec<&'static str> {
        let all = ["etcd", "apiserver", "controllers", "scheduler"];
        all.into_iter().filter(|name| self.service(name).running().is_none()).collect()
    }

    fn service<'s>(&'s self, name: &'s str) -> Service<'s> {
        Service { name, folder: &self.folder }
    }

    fn kubectl(&self) -> Command {
        kubectl(self.layout, self.programs)
    }

    fn start(&self, name: &str, program: &str, arguments: Vec<String>) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.layout.netns(CP).display())).arg("--");
        command.arg(self.programs.join(program)).args(arguments).current_dir(&self.folder);
        self.service(name).start(&command, &self.cgroup).map(drop)
    }

    fn pki(&self, file: &str) -> String {
        self.layout.pki().join(file).display().to_string()
    }

    fn state(&self, folder: &str) -> String {
        self.folder.join(folder).display().to_string()
    }

    fn etcd(&self) -> Vec<String> {
        let peer = "http://127.0.0.1:2380";
        flags(&[
            ("data-dir", &self.state("etcd")),
            ("listen-client-urls", ETCD),
            ("advertise-client-urls", ETCD),
            ("listen-peer-urls", peer),
            ("initial-advertise-peer-urls", peer),
            ("initial-cluster", &format!("default={peer}")),
            // The laboratory's data need not survive the machine.
            ("unsafe-no-fsync", "true"),
        ])
    }

    fn api_server(&self) -> Vec<String> {
        flags(&[
            ("etcd-servers", ETCD),
            ("secure-port", &API_PORT.to_string()),
            ("bind-address", "::"),
            ("advertise-address", CP.ip),
            ("cert-dir", &self.state("apiserver")),
            ("tls-cert-file", &self.pki("apiserver.crt")),
            ("tls-private-key-file", &self.pki("apiserver.key")),
            ("client-ca-file", &self.pki("ca.crt")),
            ("kubelet-client-certificate", &self.pki("kubelet-client.crt")),
            ("kubelet-client-key", &self.pki("kubelet-client.key")),
            ("kubelet-preferred-address-types", "InternalIP"),
            ("service-account-key-file", &self.pki("sa.pub")),
            ("service-account-signing-key-file", &self.pki("sa.key")),
            ("service-account-issuer", "https://kubernetes.default.svc"),
            ("requestheader-client-ca-file", &self.pki("front-proxy-ca.crt")),
            ("requestheader-allowed-names", "front-proxy-client"),
            ("requestheader-username-headers", "X-Remote-User"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            ("proxy-client-cert-file", &self.pki("front-proxy-client.crt")),
            ("proxy-client-key-file", &self.pki("front-proxy-client.key")),
            // The control plane has no kube-proxy: webhooks are called at their pods' addresses.
            ("enable-aggregator-routing", "true"),
            ("service-cluster-ip-range", SERVICES),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("allow-privileged", "true"),
            // Pods leave a node that is off after seconds, not five minutes.
            ("default-not-ready-toleration-seconds", "15"),
            ("default-unreachable-toleration-seconds", "15"),
        ])
    }

    fn controllers(&self) -> Vec<String> {
        let mut arguments = self.client("controller-manager", 10257);
        arguments.extend(flags(&[
            ("root-ca-file", &self.pki("ca.crt")),
            ("service-account-private-key-file", &self.pki("sa.key")),
            ("cluster-signing-cert-file", &self.pki("ca.crt")),
            ("cluster-signing-key-file", &self.pki("ca.key")),
            ("use-service-account-credentials", "true"),
            // holdfast gives pods their addresses, so nodes get no ranges.
            ("controllers", "*,-node-ipam-controller"),
            ("allocate-node-cidrs", "false"),
            ("node-monitor-period", "2s"),
            ("node-monitor-grace-period", "12s"),
        ]));
        arguments
    }

    fn scheduler(&self) -> Vec<String> {
        self.client("scheduler", 10259)
    }

    /// The arguments that controllers and scheduler share.
    fn client(&self, user: &str, port: u16) -> Vec<String> {
        let kubeconfig = self.pki(&format!("{user}.kubeconfig"));
        flags(&[
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("bind-address", "127.0.0.1"),
            ("secure-port", &port.to_string()),
            ("cert-dir", &self.state(user)),
            ("leader-elect", "false"),
            // The defaults hold back a test that makes hundreds of pods.
            ("kube-api-qps", "200"),
            ("kube-api-burst", "400"),
        ])
    }
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}
