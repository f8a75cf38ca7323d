//! The LAN: one switch in the control plane's network namespace, every other place plugged into it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::layout::{CP, LAN, Layout, NODES, PREFIX4, PREFIX6, Place};
use crate::progress::output;

const BRIDGE: &str = "br0";
/// The sysctls, set before there are links, so that links inherit them. Without duplicate address detection an address
/// is usable at once.
const SETTINGS: [(&str, &str); 8] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// Makes the switch and every place's connection.
pub(super) fn create(layout: &Layout) -> Result<()> {
    add(layout, CP)?;
    // Without snooping: the LAN carries neighbour discovery from its first second.
    ip(
        layout,
        CP,
        &format!(
            "link set lo up\nlink add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             addr add {}/{PREFIX4} dev {BRIDGE}\naddr add {}/{PREFIX6} dev {BRIDGE} nodad\nlink set {BRIDGE} up\n",
            CP.ip, CP.ip6
        ),
    )?;
    for place in NODES.into_iter().chain([LAN]) {
        connect(layout, place)?;
    }
    Ok(())
}

/// Gives a place its network namespace and plugs it into the switch.
pub(super) fn connect(layout: &Layout, place: Place) -> Result<()> {
    add(layout, place)?;
    let (port, switch) = (place.name, layout.label(CP));
    ip(
        layout,
        place,
        &format!(
            "link set lo up\nlink add eth0 type veth peer name {port} netns {switch}\n\
             addr add {}/{PREFIX4} dev eth0\naddr add {}/{PREFIX6} dev eth0 nodad\nlink set eth0 up\n\
             route add default via {}\nroute add default via {}\n",
            place.ip, place.ip6, CP.ip, CP.ip6
        ),
    )?;
    ip(layout, CP, &format!("link set {port} master {BRIDGE} up\n"))
}

/// Takes a place off the LAN and removes its network namespace; fine if there is none.
pub(super) fn disconnect(layout: &Layout, place: Place) -> Result<()> {
    if !layout.netns(place).exists() {
        return Ok(());
    }
    // The namespace lives on while something holds it open, and with it the link. The port on the switch must go now.
    let port = Command::new("ip").args(["-n", &layout.label(CP), "link", "del", place.name]).output();
    drop(port.context("cannot start `ip`")?);
    output(Command::new("ip").args(["netns", "del", &layout.label(place)]))?;
    Ok(())
}

/// Removes every network namespace of the laboratory.
pub(super) fn remove(layout: &Layout) -> Result<()> {
    for place in NODES.into_iter().chain([LAN]) {
        disconnect(layout, place)?;
    }
    if layout.netns(CP).exists() {
        output(Command::new("ip").args(["netns", "del", &layout.label(CP)]))?;
    }
    Ok(())
}

/// Runs `task` on a thread of its own inside a network namespace.
pub(super) fn inside<T: Send>(netns: &Path, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = fs::File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", netns.display()))?;
            task()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn add(layout: &Layout, place: Place) -> Result<()> {
    output(Command::new("ip").args(["netns", "add", &layout.label(place)]))
        .context("creating network namespaces needs root")?;
    inside(&layout.netns(place), || {
        for (name, value) in SETTINGS {
            let path = Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    })
}

/// Runs lines of `ip` in a place's namespace, all in one process.
fn ip(layout: &Layout, place: Place, lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", &layout.label(place), "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `ip`; `cargo xtask setup` installs it")?;
    child.stdin.take().context("a pipe was asked for")?.write_all(lines.as_bytes())?;
    let result = child.wait_with_output()?;
    if !result.status.success() {
        bail!("ip in {}: {}\n{lines}", layout.label(place), String::from_utf8_lossy(&result.stderr).trim());
    }
    Ok(())
}
