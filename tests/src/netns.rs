//! Networks to test in: hosts in network namespaces of their own, on a bridge that plays the LAN.
//!
//! ```text
//!   Lan ── a namespace with one bridge
//!    ├─ Host "lan"    eth0 ══ port    a machine somewhere on the LAN
//!    └─ Host "node"   eth0 ══ port    runs the code under test: Host::block_on
//!                      └─ …           its pods: Host::new, bare
//! ```
//!
//! Everything is set up with `ip` from iproute2, which knows nothing of the code under test, and goes when it is
//! dropped.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Fails without the privileges that all of this needs: a test that cannot run must not look like one that passed.
pub fn need_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces: run it as root (CAP_NET_ADMIN, CAP_SYS_ADMIN), or without --features netns"
    );
    Ok(())
}

/// A network namespace, named so that `ip netns` shows it; removed when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u32,
    gone: bool,
}

impl Host {
    /// Returns a namespace with nothing in it but a `lo` that is down: what a runtime hands to a plugin.
    pub fn new(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        need_root()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self { name, number, gone: false })
    }

    /// Returns its path, as `CNI_NETNS` has it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `ip` with these arguments inside; returns its output.
    pub fn ip(&self, words: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// Returns a command inside. It keeps the mounts of the outside, unlike under `ip netns exec`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Sends one ping and waits for one second.
    pub fn ping(&self, address: &str) -> Result<()> {
        run(self.command("ping").args(["-n", "-c", "1", "-W", "1", address]))
            .map(drop)
            .with_context(|| format!("{} cannot reach {address}", self.name))
    }

    /// Runs a closure on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("opening {}", self.path().display()))?;
        holdfast_netns::run_in(&file, work).with_context(|| format!("entering {}", self.path().display()))
    }

    /// Runs a future on a runtime whose threads are all inside.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work()))?
    }

    /// Returns the hardware address of one of its interfaces.
    pub fn mac(&self, interface: &str) -> Result<String> {
        let shown = self.ip(&format!("-o link show dev {interface}"))?;
        let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        mac.map(str::to_owned).with_context(|| format!("{interface} has no hardware address: {shown}"))
    }

    /// Removes the namespace now, as a runtime may before it calls DEL.
    pub fn remove(&mut self) -> Result<()> {
        self.gone = true;
        run(Command::new("ip").args(["netns", "del", &self.name])).map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.gone
            && let Err(error) = self.remove()
        {
            eprintln!("{error:#}");
        }
    }
}

/// A LAN: a bridge in a namespace of its own.
#[derive(Debug)]
pub struct Lan {
    switch: Host,
}

impl Lan {
    /// Returns an empty LAN. The bridge floods multicast: snooping without a querier would only add waits.
    pub fn new() -> Result<Self> {
        let switch = Host::new("lan")?;
        switch.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0")?;
        switch.ip("link set br0 up")?;
        Ok(Self { switch })
    }

    /// Returns a machine on the LAN, its `eth0` having these addresses (with prefix lengths).
    pub fn host(&self, label: &str, addresses: &[&str]) -> Result<Host> {
        let host = Host::new(label)?;
        // A machine's link-local address is usable at once: these tests are not about a machine's first second.
        // An interface that was down gets its addresses back when it comes up, as network managers do.
        for (setting, value) in [("accept_dad", "0"), ("keep_addr_on_down", "1")] {
            let path = format!("/proc/sys/net/ipv6/conf/default/{setting}");
            host.run(|| std::fs::write(path, value))??;
        }
        host.ip("link set lo up")?;
        self.plug(&host, "eth0", addresses)?;
        Ok(host)
    }

    /// Adds one more interface of a host to this LAN.
    pub fn plug(&self, host: &Host, interface: &str, addresses: &[&str]) -> Result<()> {
        let port = port(host, interface);
        self.switch.ip(&format!("link add {port} type veth peer name {interface} netns {}", host.name))?;
        self.switch.ip(&format!("link set {port} master br0 up"))?;
        host.ip(&format!("link set {interface} up"))?;
        for address in addresses {
            // Duplicate address detection would only take a second.
            let nodad = if address.contains(':') { "nodad" } else { "" };
            host.ip(&format!("addr add {address} dev {interface} {nodad}"))?;
        }
        // The bridge begins to forward when a worker of the kernel has noticed the carrier.
        within(Duration::from_secs(5), || {
            let shown = self.switch.ip(&format!("-o link show dev {port}"))?;
            ensure!(shown.contains("state UP"), "the switch does not forward yet: {shown}");
            Ok(())
        })
    }

    /// Pulls the cable of a host's interface, or puts it back: the interface stays up and loses its carrier.
    pub fn cable(&self, host: &Host, interface: &str, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        self.switch.ip(&format!("link set {} {state}", port(host, interface))).map(drop)
    }
}

/// Returns the switch's end of a host's interface.
fn port(host: &Host, interface: &str) -> String {
    format!("p{}-{interface}", host.number)
}

/// Tries again until it works; fails with the last error when the time is up.
pub fn within<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Err(error) if Instant::now() >= deadline => return Err(error.context(format!("not within {limit:?}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}; is it installed?"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
