//! The files of a node: its own /etc, /opt and /var, so that the host's neither show there nor change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::layout::{CP, Layout, NODES, Place};
use crate::cache;
use crate::image;
use crate::progress::output;

/// The folder in which a node sees the laboratory's programs, independent of the cache.
pub(super) const PROGRAMS: &str = "/opt/lab/bin";
/// containerd's socket inside a node.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
/// Files of the host's /etc that programs on a node look for.
const BORROWED: [&str; 7] = ["group", "ld.so.cache", "localtime", "nsswitch.conf", "os-release", "passwd", "protocols"];
/// Kernel settings that are the host's and that the kubelet changes if they are not these values already.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
const BOOT_ID: &str = "kernel/random/boot_id";

/// A node's files, in the state folder.
pub(super) struct NodeFiles {
    root: PathBuf,
}

impl NodeFiles {
    /// Returns the files of `node`, there or not.
    pub(super) fn new(layout: &Layout, node: Place) -> Self {
        Self { root: layout.folder(node).join("root") }
    }

    /// Returns the folder that a node sees as `place`, for example `etc`.
    pub(super) fn of(&self, place: &str) -> PathBuf {
        self.root.join(place)
    }

    /// Files that a node sees instead of those in /proc/sys: (its own, the hidden one).
    pub(super) fn masks(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> + '_ {
        let names = SETTINGS.iter().map(|(name, _)| *name).chain([BOOT_ID]);
        names.map(|name| (self.root.join("masks").join(name), Path::new("/proc/sys").join(name)))
    }

    /// Lays a new node's disk out. `parts` are the laboratory's programs, plugins and images.
    pub(super) fn create(&self, layout: &Layout, node: Place, parts: &Path) -> Result<()> {
        for folder in [
            "etc/cni/net.d",
            "etc/containerd",
            "etc/kubernetes",
            "opt/cni/bin",
            "opt/lab/bin",
            "var/cache",
            "var/lib/cni",
            "var/lib/containerd",
            "var/lib/holdfast",
            "var/lib/kubelet",
            "var/log/pods",
            "var/tmp",
        ] {
            let folder = self.of(folder);
            fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        symlink("/run", self.of("var/run"))?;
        symlink("/run/lock", self.of("var/lock"))?;
        self.etc(node)?;
        // These are copies, because an agent may install its own plugins beside them or over them.
        for entry in fs::read_dir(parts.join("cni"))? {
            let plugin = entry?;
            fs::copy(plugin.path(), self.of("opt/cni/bin").join(plugin.file_name()))?;
        }
        self.configurations(layout, node)
    }

    /// Gives the node the values that belong to one run from power-on to power-off.
    pub(super) fn boot(&self) -> Result<()> {
        for (name, value) in SETTINGS {
            self.write(&format!("masks/{name}"), &format!("{value}\n"))?;
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        self.write(&format!("masks/{BOOT_ID}"), &boot_id)
    }

    fn etc(&self, node: Place) -> Result<()> {
        for name in BORROWED {
            // A node has none of the files that this machine lacks.
            if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
                fs::write(self.of("etc").join(name), bytes)?;
            }
        }
        // Some programs of /usr are links through here.
        output(Command::new("cp").arg("-a").arg("/etc/alternatives").arg(self.of("etc")))?;
        let hosts = NODES.iter().fold(format!("127.0.0.1 localhost\n::1 localhost\n{} cp\n", CP.ip), |hosts, node| {
            hosts + &format!("{} {name}\n{} {name}\n", node.ip, node.ip6, name = node.name)
        });
        self.write("etc/hosts", &hosts)?;
        self.write("etc/hostname", &format!("{}\n", node.name))?;
        self.write("etc/resolv.conf", "")?;
        let id = self.root.as_os_str().as_encoded_bytes();
        self.write("etc/machine-id", &format!("{}{}\n", cache::key(&[id]), cache::key(&[b"machine", id])))
    }

    fn configurations(&self, layout: &Layout, node: Place) -> Result<()> {
        let kubernetes = self.of("etc/kubernetes");
        fs::copy(layout.pki().join("ca.crt"), kubernetes.join("ca.crt"))?;
        for (user, program) in [(node.name, "kubelet"), ("kube-proxy", "proxy")] {
            let kubeconfig = layout.pki().join(format!("{user}.kubeconfig"));
            fs::copy(kubeconfig, kubernetes.join(format!("{program}.kubeconfig")))?;
        }
        self.write("etc/kubernetes/proxy.json", &proxy(node))?;
        self.write("etc/kubernetes/kubelet.json", &kubelet(node, &format!("/{}", layout.label(node))))?;
        self.write("etc/containerd/config.toml", &containerd())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

fn kubelet(node: Place, cgroup: &str) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.ip,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": "/etc/kubernetes/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        // Root in a container may not lower it.
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": false,
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
        },
        // Images come from the cache and from nowhere else: one that is removed from a full disk could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 10,
        "syncFrequency": "5s",
        "maxPods": 500,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        // The default is under /usr, which is the host's.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
    .to_string()
}

fn proxy(node: Place) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": "/etc/kubernetes/proxy.kubeconfig" },
        "mode": "iptables",
        "hostnameOverride": node.name,
        // Limits of connection tracking belong to the whole machine: they stay as they are.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "iptables": { "localhostNodePorts": false },
        "oomScoreAdj": 0,
    })
    .to_string()
}

fn containerd() -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
enable_selinux = false
# Root without CAP_SYS_RESOURCE may not lower it: sandboxes would not start.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
max_conf_num = 1

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{PROGRAMS}/runc"
SystemdCgroup = false
"#,
        pause = image::PAUSE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boot_has_an_id_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let files = NodeFiles { root: folder.path().to_owned() };
        let boot = || {
            files.boot().unwrap();
            fs::read_to_string(folder.path().join("masks").join(BOOT_ID)).unwrap()
        };
        assert_ne!(boot(), boot());
        assert!(files.masks().all(|(own, hidden)| own.exists() && hidden.starts_with("/proc/sys")));
    }
}
