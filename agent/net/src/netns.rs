//! Other network namespaces.
//!
//! A thread's namespace is part of its identity, and the runtime's threads have to keep theirs. So whoever wants
//! to be elsewhere gets a thread of its own that enters, does one thing and ends; a socket opened there stays in
//! that namespace and is used from outside.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use holdfast_core::{
    id::{IfIndex, IfName},
    mac::Mac,
};
use nix::sched::{CloneFlags, setns};

use super::{NetError, Uplink, announce::Announcer, netlink::Socket, veth};

/// An open network namespace. It lives on while this is held.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Netns {
    /// Opens the namespace at a path such as `/run/netns/…` or `/proc/<pid>/ns/net`. The node's own is refused:
    /// nothing here may ever be done to it by way of a pod.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let wrong = |source| NetError::Netns { path: path.to_owned(), source };
        let netns = Self { file: File::open(path).map_err(wrong)?, path: path.to_owned() };
        if !is_network_namespace(&netns.file).map_err(wrong)? {
            return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is not a network namespace")));
        }
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let own = File::open("/proc/thread-self/ns/net").and_then(|file| identity(&file)).map_err(wrong)?;
        if identity(&netns.file).map_err(wrong)? == own {
            return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is the node's own")));
        }
        Ok(netns)
    }

    /// Runs a closure inside, on a thread made for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        let inside = || {
            // The kernel refuses anything that is not a network namespace.
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| self.wrong(errno.into()))?;
            Ok(work())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(256 << 10);
            let thread = thread.spawn_scoped(scope, inside).map_err(|source| self.wrong(source))?;
            thread.join().map_err(|_| NetError::Worker(format!("the thread in {} panicked", self.path.display())))?
        })
    }

    /// For `IFLA_NET_NS_FD`.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where this was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An rtnetlink socket inside.
    pub(super) fn socket(&self) -> Result<Socket, NetError> {
        self.run(|| Socket::open(format!("in {}", self.path.display())))?
    }

    /// The hardware address of an interface inside; `None` if there is no such interface.
    pub fn mac_of(&self, interface: &IfName) -> Result<Option<Mac>, NetError> {
        let found = veth::find(&self.socket()?, interface)?;
        Ok(found.map(|attrs| attrs.mac.unwrap_or(Mac([0; 6]))))
    }

    /// Tells the LAN, from inside, that the addresses are at the interface's hardware address. For interfaces that are on
    /// the LAN themselves; nothing happens where there is no such interface.
    pub fn announce(&self, interface: &IfName, addresses: &[IpAddr]) -> Result<(), NetError> {
        let Some(attrs) = veth::find(&self.socket()?, interface)? else { return Ok(()) };
        let Some(mac) = attrs.mac else { return Ok(()) };
        let sender = Uplink { name: interface.clone(), index: IfIndex(attrs.index), mac, mtu: attrs.mtu };
        self.run(|| Announcer::open()?.send(&sender, addresses.iter().copied()))?
    }

    fn wrong(&self, source: io::Error) -> NetError {
        NetError::Netns { path: self.path.clone(), source }
    }
}

/// Asked before anything is done, because what the kernel says later names neither the path nor the reason. A file that
/// is no namespace at all does not know the question.
fn is_network_namespace(file: &File) -> io::Result<bool> {
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and NS_GET_NSTYPE takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    match nix::errno::Errno::result(kind) {
        Ok(kind) => Ok(kind == libc::CLONE_NEWNET),
        Err(nix::errno::Errno::ENOTTY) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
