//! A host on the LAN that talks to pods.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;
use xtask::progress::{Poll, output};

use crate::namespace::Holder;
use crate::world::World;

/// The host, in both families.
pub(crate) const LAN: [&str; 2] = ["172.22.0.100", "fd00:22::100"];

/// An error unless a host on the LAN gets an answer from both addresses within a second.
pub(crate) fn reaches(world: &World, holder: &Holder) -> Result<()> {
    for address in holder.addresses() {
        let ping = ["ping", "-n", "-c", "1", "-w", "1", "-i", "0.1", address];
        output(&mut world.lab().in_lan(&ping))
            .with_context(|| format!("a host on the LAN does not reach {address}"))?;
    }
    Ok(())
}

/// Pings that go on until they are asked for.
pub(crate) struct Pings {
    world: &'static World,
    address: String,
    ping: Child,
    output: NamedTempFile,
}

impl Pings {
    /// A host on the LAN pings an address, fifty times a second.
    pub(crate) fn from_lan(world: &'static World, address: &str) -> Result<Self> {
        let output = NamedTempFile::new()?;
        let mut ping = world.lab().in_lan(&["ping", "-n", "-i", "0.02", address]);
        let ping = ping.stdin(Stdio::null()).stdout(output.reopen()?).stderr(Stdio::null()).spawn()?;
        Ok(Self { world, address: address.to_owned(), ping, output })
    }

    /// The numbers of the answers until now.
    fn answered(&self) -> Result<BTreeSet<u64>> {
        let text = std::fs::read_to_string(self.output.path())?;
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        Ok(text.lines().filter(|line| line.contains("bytes from")).filter_map(number).collect())
    }

    /// Ends them once `minimum` more were answered. An error unless all were.
    pub(crate) fn all_answered(self, minimum: usize) -> Result<()> {
        let before = self.answered()?.len();
        let answered = self.world.wait(&format!("answers from {}", self.address), 10, || {
            let answered = self.answered()?;
            let more = answered.len() - before;
            Ok(if more < minimum { Poll::Pending(format!("{more} more came")) } else { Poll::Ready(answered) })
        })?;
        // Those after the last answer may still be on their way.
        let last = answered.last().copied().unwrap_or_default();
        let missing: Vec<u64> = (1..=last).filter(|number| !answered.contains(number)).collect();
        ensure!(missing.is_empty(), "{}: {missing:?} of {last} pings were not answered", self.address);
        Ok(())
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        drop(self.ping.kill());
        drop(self.ping.wait());
    }
}
