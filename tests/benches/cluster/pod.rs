//! A running pod's interface: frames from inside, and what the node's guard has written of it.

use std::{
    fs::{self, File},
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, MapError};
use holdfast_abi::{Binding, BindingKey, STATE_CURRENT, STATE_STALE, v4_mapped};
use holdfast_tests::frames::{self, Mac};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
    unistd::Pid,
};
use xtask::progress::output;

const INTERFACE: &str = "eth0";

/// Returns the first process of a container, found by the container's ID in the names of its cgroups. Nodes share the
/// process IDs of the machine.
pub(crate) fn process_of(container: &str) -> Result<Pid> {
    let found = process_with(|folder| fs::read_to_string(folder.join("cgroup")).is_ok_and(|it| it.contains(container)));
    found?.with_context(|| format!("container {container} has no process"))
}

/// Returns the process of a program in a node's cgroup: other laboratories have nodes of the same names.
pub(crate) fn process_on(cgroup: &str, program: &str) -> Result<Pid> {
    let below = format!("/{cgroup}/");
    let found = process_with(|folder| {
        let read = |file| fs::read_to_string(folder.join(file)).unwrap_or_default();
        read("comm").trim_end() == program && read("cgroup").lines().any(|line| format!("{line}/").contains(&below))
    });
    found?.with_context(|| format!("no {program} runs in {cgroup}"))
}

/// Returns the first process whose folder in /proc is as wanted. Processes come and go while that is read.
fn process_with(wanted: impl Fn(&Path) -> bool) -> Result<Option<Pid>> {
    let mut processes: Vec<i32> = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if wanted(&entry.path()) {
            processes.push(process);
        }
    }
    Ok(processes.into_iter().min().map(Pid::from_raw))
}

/// Works on a thread in another network namespace.
pub(crate) fn inside<T: Send>(network: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(network).with_context(|| format!("opening {}", network.display()))?;
    let enter = || setns(&file, CloneFlags::CLONE_NEWNET).map_err(Into::into).and_then(|()| work());
    thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(outcome) => outcome.with_context(|| format!("in the network of {}", network.display())),
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A pod's end of its link.
pub(crate) struct Port {
    socket: OwnedFd,
    address: LinkAddr,
    /// The index of the node's end.
    pub(crate) link: u32,
}

impl Port {
    /// Opens the interface of a container's pod.
    pub(crate) fn open(container: &str) -> Result<Self> {
        let network = PathBuf::from(format!("/proc/{}/ns/net", process_of(container)?));
        inside(&network, || {
            // No protocol: it only sends.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let address = getifaddrs()?
                .filter(|entry| entry.interface_name == INTERFACE)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .with_context(|| format!("no interface {INTERFACE}"))?;
            let shown = output(Command::new("ip").args(["-o", "link", "show", "dev", INTERFACE]))?;
            let link = shown.split_once("@if").and_then(|(_, rest)| rest.split(':').next()?.parse().ok());
            Ok(Self { socket, address, link: link.with_context(|| format!("the other end's index: {shown}"))? })
        })
    }

    fn mac(&self) -> Mac {
        self.address.addr().unwrap_or_default()
    }

    /// Returns a frame with this source address.
    pub(crate) fn frame_from(&self, address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => frames::ipv4(self.mac(), address, "bench"),
            IpAddr::V6(address) => frames::ipv6(self.mac(), address, "bench"),
        }
    }

    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        match sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty()) {
            // The interface's queue is full: this counts as a packet lost on the way.
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The guard's map of bindings on a node.
pub(crate) struct Bindings(HashMap<MapData, BindingKey, Binding>);

impl Bindings {
    /// Opens the map through the BPF file system that a process of the node sees.
    pub(crate) fn of_node(process: i32) -> Result<Self> {
        let pin = format!("/proc/{process}/root/sys/fs/bpf/holdfast/maps/BINDINGS");
        let map = MapData::from_pin(&pin).and_then(Map::from_map_data).and_then(HashMap::try_from);
        Ok(Self(map.with_context(|| pin)?))
    }

    /// Takes the address away from the link, as if it had a newer holder.
    pub(crate) fn make_stale(&mut self, link: u32, address: IpAddr) -> Result<()> {
        let key = key(link, address);
        let binding = self.0.get(&key, 0).with_context(|| format!("link {link} is not bound to {address}"))?;
        Ok(self.0.insert(key, Binding { state: STATE_STALE, ..binding }, 0)?)
    }

    /// Returns true if the link's packets from the address pass.
    pub(crate) fn is_current(&self, link: u32, address: IpAddr) -> Result<bool> {
        match self.0.get(&key(link, address), 0) {
            Ok(binding) => Ok(binding.state == STATE_CURRENT),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn key(link: u32, address: IpAddr) -> BindingKey {
    let address = match address {
        IpAddr::V4(address) => v4_mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    };
    BindingKey::new(link, address)
}
