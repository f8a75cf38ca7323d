//! Kernel settings below `/proc/sys/net`, of the namespace of the thread that reads or writes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::NetError;

/// A sysctl, named by its path below `/proc/sys/net`. Interface names may hold dots, so the dotted form that
/// `sysctl` prints is of no use.
#[derive(Debug)]
pub(super) struct Sysctl(PathBuf);

impl Sysctl {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(PathBuf::from("/proc/sys/net").join(path.into()))
    }

    /// The value; `None` when the kernel has no such setting (IPv6 left out, an interface that went).
    pub(super) fn get(&self) -> Result<Option<String>, NetError> {
        match fs::read_to_string(&self.0) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.wrong(source)),
        }
    }

    /// Writes the value, unless it is there already: the file system may be read-only and right.
    pub(super) fn ensure(&self, value: &str) -> Result<(), NetError> {
        match self.get()? {
            Some(found) if found != value => fs::write(&self.0, value).map_err(|source| self.wrong(source)),
            _ => Ok(()),
        }
    }

    fn wrong(&self, source: io::Error) -> NetError {
        NetError::Sysctl { path: self.0.clone(), source }
    }
}

/// What a node needs to route for its pods, once.
pub(super) fn prepare_node() -> Result<(), NetError> {
    // Writing `ip_forward` resets other settings of every interface, so only where it is off.
    Sysctl::new("ipv4/ip_forward").ensure("1")?;
    let forwarding = Sysctl::new("ipv6/conf/all/forwarding");
    if forwarding.get()?.as_deref() == Some("0") {
        keep_router_advertisements()?;
        forwarding.ensure("1")?;
    }
    // The kernel asks the node-wide switch when it answers unicast probes, the interface's for the others.
    Sysctl::new("ipv6/conf/all/proxy_ndp").ensure("1")
}

fn keep_router_advertisements() -> Result<(), NetError> {
    let conf = PathBuf::from("/proc/sys/net/ipv6/conf");
    let wrong = |source| NetError::Sysctl { path: conf.clone(), source };
    for entry in fs::read_dir(&conf).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name();
        // `all` and `default` would change interfaces that others bring later.
        if name != "all" && name != "default" {
            keep_router_advertisements_on(&conf.join(&name))?;
        }
    }
    Ok(())
}

/// A forwarding interface ignores router advertisements unless `accept_ra` is 2; with 1 the node would lose its own
/// default route the moment forwarding goes on.
fn keep_router_advertisements_on(interface: &Path) -> Result<(), NetError> {
    let accept = Sysctl(interface.join("accept_ra"));
    if accept.get()?.as_deref() == Some("1") { accept.ensure("2") } else { Ok(()) }
}

/// What the host end of a pod's link needs, whatever the node has for interfaces to come. Forwarding alone does not keep
/// a router advertisement out where `accept_ra` is 2 by default; a pod must never become the node's router.
pub(super) fn prepare_host_end(name: &str) -> Result<(), NetError> {
    Sysctl::new(format!("ipv4/conf/{name}/forwarding")).ensure("1")?;
    Sysctl::new(format!("ipv6/conf/{name}/accept_ra")).ensure("0")
}

/// Routes of a family lead only to an interface that has it.
pub(super) fn allow_v6(name: &str) -> Result<(), NetError> {
    Sysctl::new(format!("ipv6/conf/{name}/disable_ipv6")).ensure("0")
}

/// What an interface needs for the node to answer on it for its pods. The kernel answers for others only where
/// forwarding is on, and delays the answer by up to 0.8 s unless `proxy_delay` is 0.
pub(super) fn prepare_uplink(name: &str) -> Result<(), NetError> {
    Sysctl::new(format!("ipv4/conf/{name}/forwarding")).ensure("1")?;
    Sysctl::new(format!("ipv4/neigh/{name}/proxy_delay")).ensure("0")?;
    let forwarding = Sysctl::new(format!("ipv6/conf/{name}/forwarding"));
    if forwarding.get()?.as_deref() == Some("0") {
        keep_router_advertisements_on(&Path::new("/proc/sys/net/ipv6/conf").join(name))?;
        forwarding.ensure("1")?;
    }
    Sysctl::new(format!("ipv6/conf/{name}/proxy_ndp")).ensure("1")?;
    Sysctl::new(format!("ipv6/neigh/{name}/proxy_delay")).ensure("0")
}
