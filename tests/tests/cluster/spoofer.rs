//! A pod that spoofs its source address, and a host on the LAN that counts the spoofed frames.

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

use crate::namespace::Holder;
use crate::sandbox;
use crate::world::World;

const LAN: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 100);
/// Pause between two spoofed frames.
const PAUSE: Duration = Duration::from_millis(2);

/// Packet sockets on a pod's interface and on the LAN host's.
pub(crate) struct Spoofer {
    pod: PacketSocket,
    lan: PacketSocket,
    own: Ipv4Addr,
    gateway: [u8; 6],
}

impl Spoofer {
    /// Opens the interfaces of a running pod and of the LAN's host.
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

    /// Sends a datagram to the LAN's host; `from` may be an address that is not the pod's.
    fn send(&self, from: Ipv4Addr, text: &str) -> Result<()> {
        let mut frame = frames::ipv4_to(self.pod.mac(), from, LAN, text);
        frame[..6].copy_from_slice(&self.gateway);
        self.pod.send(&frame)
    }

    /// Sends spoofed frames for as long as `work` runs. Returns how many were sent, how many arrived on the LAN, and what
    /// `work` returned.
    pub(crate) fn spoof_during<T>(&self, from: Ipv4Addr, work: impl FnOnce() -> Result<T>) -> Result<(u64, usize, T)> {
        self.send(self.own, "own address")?;
        self.lan
            .receive_until(|frame| has(frame, "own address"))
            .context("the LAN's host does not receive the pod's frames")?;
        let (ended, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let done = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    self.send(from, "spoofed")?;
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PAUSE);
                }
                anyhow::Ok(())
            });
            let done = work();
            ended.store(true, Ordering::Release);
            sender.join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
            done
        })?;
        self.send(self.own, "the end")?;
        let received = self
            .lan
            .receive_until(|frame| has(frame, "the end"))
            .context("the LAN's host no longer receives the pod's frames")?;
        Ok((sent.into_inner(), received.iter().filter(|frame| has(frame, "spoofed")).count(), done))
    }

    /// Sends `count` spoofed frames as fast as possible, each from `address(number)`. Returns how many arrived on the LAN.
    pub(crate) fn flood(&self, count: u32, address: impl Fn(u32) -> Ipv4Addr) -> Result<usize> {
        for number in 0..count {
            self.send(address(number), "spoofed")?;
        }
        self.send(self.own, "the end")?;
        let received = self
            .lan
            .receive_until(|frame| has(frame, "the end"))
            .context("the LAN's host no longer receives the pod's frames")?;
        Ok(received.iter().filter(|frame| has(frame, "spoofed")).count())
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
