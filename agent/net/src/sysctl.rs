//! Sysctls below `/proc/sys/net`, in the network namespace of the calling thread.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::NetError;

/// A sysctl, named by its path below `/proc/sys/net`. The dotted form that `sysctl(8)` prints is ambiguous, because
/// interface names may contain dots.
#[derive(Debug)]
pub(super) struct Sysctl(PathBuf);

impl Sysctl {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(PathBuf::from("/proc/sys/net").join(path.into()))
    }

    /// Returns the value; `None` if the kernel has no such sysctl (a kernel without IPv6, an interface that is gone).
    pub(super) fn get(&self) -> Result<Option<String>, NetError> {
        match fs::read_to_string(&self.0) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error(source)),
        }
    }

    /// Writes the value unless it is set already: `/proc/sys` may be mounted read-only.
    pub(super) fn ensure(&self, value: &str) -> Result<(), NetError> {
        match self.get()? {
            Some(found) if found != value => fs::write(&self.0, value).map_err(|source| self.error(source)),
            _ => Ok(()),
        }
    }

    fn error(&self, source: io::Error) -> NetError {
        NetError::Sysctl { path: self.0.clone(), source }
    }
}

/// Sets the node-wide sysctls that routing for pods needs.
pub(super) fn prepare_node() -> Result<(), NetError> {
    // A write of `ip_forward` resets other sysctls of every interface, so it is written only where it is off.
    Sysctl::new("ipv4/ip_forward").ensure("1")?;
    let forwarding = Sysctl::new("ipv6/conf/all/forwarding");
    if forwarding.get()?.as_deref() == Some("0") {
        keep_router_advertisements()?;
        forwarding.ensure("1")?;
    }
    // The kernel checks the node-wide switch for unicast probes and the interface's switch for multicast ones.
    Sysctl::new("ipv6/conf/all/proxy_ndp").ensure("1")
}

fn keep_router_advertisements() -> Result<(), NetError> {
    let conf = PathBuf::from("/proc/sys/net/ipv6/conf");
    let error = |source| NetError::Sysctl { path: conf.clone(), source };
    for entry in fs::read_dir(&conf).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        // `all` and `default` would change interfaces that others create later.
        if name != "all" && name != "default" {
            keep_router_advertisements_on(&conf.join(&name))?;
        }
    }
    Ok(())
}

/// A forwarding interface ignores router advertisements unless `accept_ra` is 2. With 1 the node would lose its default
/// route when forwarding is switched on.
fn keep_router_advertisements_on(interface: &Path) -> Result<(), NetError> {
    let accept = Sysctl(interface.join("accept_ra"));
    if accept.get()?.as_deref() == Some("1") { accept.ensure("2") } else { Ok(()) }
}

/// Sets the sysctls of the host end of a pod's link, whatever the defaults for new interfaces are. Where `accept_ra` is
/// 2 by default, forwarding alone does not keep a router advertisement out, and a pod must never become the node's
/// router.
pub(super) fn prepare_host_end(name: &str) -> Result<(), NetError> {
    Sysctl::new(format!("ipv4/conf/{name}/forwarding")).ensure("1")?;
    Sysctl::new(format!("ipv6/conf/{name}/accept_ra")).ensure("0")
}

/// Enables IPv6 on an interface, without which the kernel adds no IPv6 routes to it.
pub(super) fn enable_ipv6(name: &str) -> Result<(), NetError> {
    Sysctl::new(format!("ipv6/conf/{name}/disable_ipv6")).ensure("0")
}

/// Sets the sysctls of an uplink that proxy ARP and NDP need. The kernel answers only for addresses that it forwards
/// to, and delays the answer by up to 0.8 s unless `proxy_delay` is 0.
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
