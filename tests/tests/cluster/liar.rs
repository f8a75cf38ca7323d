//! A pod that sends what no well-behaved stack would, and a host on the LAN that listens.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::frames;
use holdfast_tests::packet_socket::{PacketSocket, has};
use nix::sched::{CloneFlags, setns};
use xtask::progress::output;

use crate::sandbox;
use crate::stage::Holder;
use crate::world::World;

const LAN: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 100);
/// Between two frames of one that goes on lying.
const PAUSE: Duration = Duration::from_millis(2);

/// A pod's interface, and the LAN's.
pub(crate) struct Liar {
    pod: PacketSocket,
    lan: PacketSocket,
    own: Ipv4Addr,
    gateway: [u8; 6],
}

impl Liar {
    /// In the place of a pod that runs.
    pub(crate) fn new(world: &World, holder: &Holder) -> Result<Self> {
        let process = sandbox::process_of(&holder.container)?;
        let netns = format!("/proc/{process}/ns/net");
        let show = [&format!("--net={netns}"), "ip", "neigh", "show", "169.254.1.1"];
        let shown = output(Command::new("nsenter").args(show))?;
        let gateway = shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        let lan = socket(&world.lab().description().netns.lan)?;
        lan.enlarge_buffer()?;
        Ok(Self {
            pod: socket(netns.as_ref())?,
            lan,
            own: holder.addresses()[0].parse()?,
            gateway: parse_mac(gateway.with_context(|| format!("the pod's gateway is not in {shown:?}"))?)?,
        })
    }

    /// Sends a datagram to the LAN's host, from an address that may not be the pod's.
    fn send(&self, from: Ipv4Addr, text: &str) -> Result<()> {
        let mut frame = frames::ipv4_to(self.pod.mac(), from, LAN, text);
        frame[..6].copy_from_slice(&self.gateway);
        self.pod.send(&frame)
    }

    /// What is heard on the LAN of a lie that is told all the while that `work` takes: how often it was told, and heard.
    pub(crate) fn lies<T>(&self, from: Ipv4Addr, work: impl FnOnce() -> Result<T>) -> Result<(u64, usize, T)> {
        self.send(self.own, "the truth")?;
        self.lan.receive_until(|frame| has(frame, "the truth")).context("the pod is not heard at all")?;
        let (ended, told) = (AtomicBool::new(false), AtomicU64::new(0));
        let done = std::thread::scope(|scope| {
            let liar = scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    self.send(from, "a lie")?;
                    told.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PAUSE);
                }
                anyhow::Ok(())
            });
            let done = work();
            ended.store(true, Ordering::Release);
            liar.join().map_err(|_| anyhow::anyhow!("the liar panicked"))??;
            done
        })?;
        self.send(self.own, "the end")?;
        let heard = self.lan.receive_until(|frame| has(frame, "the end")).context("the pod is heard no more")?;
        Ok((told.into_inner(), heard.iter().filter(|frame| has(frame, "a lie")).count(), done))
    }

    /// Floods: `count` lies, as fast as they go, over all addresses of a pool.
    pub(crate) fn flood(&self, count: u32, address: impl Fn(u32) -> Ipv4Addr) -> Result<usize> {
        for number in 0..count {
            self.send(address(number), "a lie")?;
        }
        self.send(self.own, "the end")?;
        let heard = self.lan.receive_until(|frame| has(frame, "the end")).context("the pod is heard no more")?;
        Ok(heard.iter().filter(|frame| has(frame, "a lie")).count())
    }
}

fn socket(netns: &Path) -> Result<PacketSocket> {
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            PacketSocket::here("eth0")
        });
        inside.join().map_err(|_| anyhow::anyhow!("the thread in {} panicked", netns.display()))?
    })
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    ensure!(bytes.len() == 6, "{text:?} is no hardware address");
    Ok(bytes.try_into().unwrap_or_default())
}
