//! The network namespaces of pods.

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

use super::{
    announce::{self, Announcer},
    blocking::blocking,
    error::NetError,
    link::Uplink,
    link_attrs::LinkAttrs,
    netlink::Socket,
};

/// An open network namespace. The kernel keeps it while this is held.
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
    /// Opens the namespace at a path such as `/run/netns/…` or `/proc/<pid>/ns/net`. The node's own namespace is
    /// refused, so that no request for a pod can change it.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let error = |source| NetError::Netns { path: path.to_owned(), source };
        let netns = Self { file: File::open(path).map_err(error)?, path: path.to_owned() };
        if !is_network_namespace(&netns.file).map_err(error)? {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is not a network namespace")));
        }
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let own = File::open("/proc/thread-self/ns/net").and_then(|file| identity(&file)).map_err(error)?;
        if identity(&netns.file).map_err(error)? == own {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is the node's own")));
        }
        Ok(netns)
    }

    /// Runs a closure on a new thread in the namespace and waits for its end. Panics if the closure panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        holdfast_netns::run_in(self, work).map_err(|source| self.error(source))
    }

    /// Returns the file descriptor for `IFLA_NET_NS_FD`.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Returns the path that the namespace was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens an rtnetlink socket in the namespace.
    pub(super) fn socket(&self) -> Result<Socket, NetError> {
        self.run(|| Socket::open(format!("in {}", self.path.display())))?
    }

    /// Returns the hardware address of an interface in the namespace; `None` if there is no such interface.
    pub fn mac_of(&self, interface: &IfName) -> Result<Option<Mac>, NetError> {
        let found = LinkAttrs::find(&self.socket()?, interface)?;
        Ok(found.map(|attrs| attrs.mac.unwrap_or(Mac([0; 6]))))
    }

    /// Announces the addresses at the interface's hardware address, on the interface itself, which has to be on the
    /// LAN. Does nothing if there is no such interface.
    fn announce(&self, interface: &IfName, addresses: &[IpAddr]) -> Result<(), NetError> {
        let Some(attrs) = LinkAttrs::find(&self.socket()?, interface)? else { return Ok(()) };
        let Some(mac) = attrs.mac else { return Ok(()) };
        let sender = Uplink { name: interface.clone(), index: IfIndex(attrs.index), mac, mtu: attrs.mtu };
        self.run(|| Announcer::open()?.send(&sender, addresses.iter().copied()))?
    }

    /// Announces the addresses three times within two seconds, from the interface in the namespace at `path`, which has
    /// to be on the LAN. Failures are logged.
    pub async fn announce_repeatedly(path: &Path, interface: &IfName, addresses: &[IpAddr]) {
        announce::repeat(|| {
            let (path, interface, addresses) = (path.to_owned(), interface.clone(), addresses.to_vec());
            blocking(move || Self::open(&path)?.announce(&interface, &addresses).map(|()| true))
        })
        .await;
    }

    fn error(&self, source: io::Error) -> NetError {
        NetError::Netns { path: self.path.clone(), source }
    }
}

/// Returns true for a file of a network namespace. The check comes before any change, because the errors of later
/// system calls give neither path nor reason.
fn is_network_namespace(file: &File) -> io::Result<bool> {
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and NS_GET_NSTYPE takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    match nix::errno::Errno::result(kind) {
        Ok(kind) => Ok(kind == libc::CLONE_NEWNET),
        // A file that is not a namespace does not support the ioctl.
        Err(nix::errno::Errno::ENOTTY) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
