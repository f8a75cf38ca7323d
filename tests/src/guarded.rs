//! A node with guarded pods.
//!
//! ```text
//!   pod "a" eth0 ══ a ─┐
//!   pod "b" eth0 ══ b ─┼─ br0 of the node ── lan ══ eth0 host "lan": hears what gets through
//!   …                 ─┘
//! ```

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use holdfast_abi::Counter;
use holdfast_core::{
    guard_mode::GuardMode,
    id::{ContainerId, Generation, IfIndex, IfName},
    mac::Mac,
};
use holdfast_guard::{BindingEntry, Config, Datapath, Events, GuardEvent, LinkInfo};

use crate::{
    frames,
    netns::{Host, within},
    packet_socket::{PacketSocket, has},
};

/// The time to read an event that is in the ring already: the reader has to be woken first.
const PRESENT: Duration = Duration::from_millis(50);
/// The deadline for an event to arrive.
const LIMIT: Duration = Duration::from_secs(5);

/// A folder of bpffs, removed with all that is pinned in it.
pub struct Bpffs(PathBuf);

impl Bpffs {
    /// Returns a folder that does not exist yet.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("/sys/fs/bpf/hft-{}-{number}", std::process::id()).into())
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Bpffs {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// A pod with its link to the node's bridge.
pub struct Pod {
    /// Its namespace.
    pub host: Host,
    /// Its `eth0`.
    pub socket: PacketSocket,
    /// The host side's index.
    pub link: IfIndex,
    /// The host side's name.
    pub name: IfName,
    /// Its container's tag.
    pub tag: u64,
}

/// The node.
pub struct Node {
    // Dropped first: the pins go before the interfaces, unlike in production, so that nothing is left.
    bpffs: Bpffs,
    /// Its namespace.
    pub host: Host,
    /// The packet socket that hears the frames that get through.
    pub lan: PacketSocket,
    lan_host: Host,
    clsact: bool,
}

impl Node {
    /// Returns a node with a LAN and no pods.
    pub fn new() -> Result<Self> {
        let host = Host::new("node")?;
        host.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0")?;
        host.ip("link set br0 up")?;
        let lan_host = Host::new("lan")?;
        plug(&host, &lan_host, "lan")?;
        let lan = PacketSocket::open(&lan_host, "eth0")?;
        Ok(Self { bpffs: Bpffs::new(), host, lan, lan_host, clsact: false })
    }

    /// Returns a node whose guard does without tcx.
    pub fn with_clsact() -> Result<Self> {
        Ok(Self { clsact: true, ..Self::new()? })
    }

    /// Returns true if the kernel has tcx and the guard uses it.
    pub fn has_tcx(&self) -> bool {
        let version = aya::util::KernelVersion::current();
        !self.clsact && version.is_ok_and(|version| version >= aya::util::KernelVersion::new(6, 6, 0))
    }

    /// Returns the guard's folder.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Returns the machine on the LAN.
    pub fn lan_host(&self) -> &Host {
        &self.lan_host
    }

    /// Returns the configuration that the guard is opened with.
    pub fn config(&self) -> Config {
        // A fresh build to be tested in place of the committed object.
        let object = std::env::var_os("HOLDFAST_BPF_OBJECT").map(PathBuf::from);
        Config { object, clsact: self.clsact, ..Config::new(self.bpffs.path()) }
    }

    /// Opens the guard as an agent on this node does.
    pub fn open(&self) -> Result<(Datapath, Reports)> {
        let (guard, events) = self.host.run(|| Datapath::open(&self.config()))?.context("opening the guard")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok((guard, Reports { runtime, events }))
    }

    /// Returns a pod, its link not guarded yet. `name` is the host side's too.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let host = Host::new(name)?;
        let link = plug(&self.host, &host, name)?;
        let socket = PacketSocket::open(&host, "eth0")?;
        let tag = name.parse::<ContainerId>()?.tag();
        Ok(Pod { host, socket, link, name: name.parse()?, tag })
    }

    /// Puts the guard on the pod's link.
    pub fn guard(&self, guard: &Datapath, pod: &Pod, mode: GuardMode) -> Result<()> {
        let info = LinkInfo { mac: Mac(pod.socket.mac()), container_tag: pod.tag, generation: Generation(1), mode };
        self.host.run(|| guard.attach_pod_link(pod.link, &pod.name, info))?.context("guarding a pod")
    }

    /// Returns the frames of a pod that the LAN hears, in order: sends them, then one that the guard does not drop.
    pub fn heard(&self, pod: &Pod, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("mark {} {}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        for frame in frames {
            pod.socket.send(frame)?;
        }
        pod.socket.send(&frames::other(pod.socket.mac(), &mark))?;
        let mut heard = self.lan.receive_until(|frame| has(frame, &mark))?;
        heard.retain(|frame| frames.iter().any(|sent| frames::received(sent) == *frame));
        Ok(heard)
    }

    /// Fails unless all of the frames reach the LAN.
    pub fn passes(&self, pod: &Pod, frames: &[Vec<u8>]) -> Result<()> {
        let heard = self.heard(pod, frames)?;
        if heard.len() != frames.len() {
            bail!("{} sent {} frames, {} passed: {heard:02x?}", pod.name, frames.len(), heard.len());
        }
        Ok(())
    }

    /// Fails unless none of the frames reaches the LAN.
    pub fn stops(&self, pod: &Pod, frames: &[Vec<u8>]) -> Result<()> {
        let heard = self.heard(pod, frames)?;
        if !heard.is_empty() {
            bail!("{} sent {} frames that should not pass, {} did: {heard:02x?}", pod.name, frames.len(), heard.len());
        }
        Ok(())
    }
}

/// Joins a host's new `eth0` to the node's bridge; returns the index of the node's side.
fn plug(node: &Host, host: &Host, port: &str) -> Result<IfIndex> {
    let path = host.path();
    let namespace = path.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?;
    node.ip(&format!("link add name {port} type veth peer name eth0 netns {namespace}"))?;
    node.ip(&format!("link set dev {port} master br0 up"))?;
    host.ip("link set eth0 up")?;
    forwards(node, port)?;
    let index = node.run(|| nix::net::if_::if_nametoindex(port))??;
    Ok(IfIndex(index))
}

/// Waits until the bridge forwards what comes in by the port: it learns a little later that the link is up.
pub fn forwards(node: &Host, port: &str) -> Result<()> {
    within(LIMIT, || match node.ip(&format!("-d link show dev {port}"))? {
        shown if shown.contains("state forwarding") => Ok(()),
        shown => bail!("{port} does not forward: {shown}"),
    })
}

/// Returns the binding of an address to the pod.
pub fn binding(pod: &Pod, address: impl Into<IpAddr>, generation: u64) -> BindingEntry {
    BindingEntry {
        link: pod.link,
        address: address.into(),
        generation: Generation(generation),
        container_tag: pod.tag,
        mac: Mac(pod.socket.mac()),
    }
}

/// The guard's events.
pub struct Reports {
    runtime: tokio::runtime::Runtime,
    events: Events,
}

impl Reports {
    /// Returns the next event, which must come.
    pub fn wait(&mut self) -> Result<GuardEvent> {
        self.wait_for(LIMIT)?.with_context(|| format!("no event within {LIMIT:?}"))
    }

    /// Returns the next event, if it comes before the time is up.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<GuardEvent>> {
        let Self { runtime, events } = self;
        let next = runtime.block_on(async { tokio::time::timeout(limit, events.next()).await });
        Ok(next.ok().transpose()?)
    }

    /// Returns an event that is there already.
    pub fn try_next(&mut self) -> Option<Result<GuardEvent>> {
        self.wait_for(PRESENT).transpose()
    }
}

/// Returns one counter.
pub fn counted(guard: &Datapath, counter: Counter) -> Result<u64> {
    Ok(guard.counters()?.get(counter))
}
