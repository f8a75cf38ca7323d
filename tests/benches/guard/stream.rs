//! The time that the guard adds to UDP through a pod's veth.
//!
//! ```text
//! pod 10.7.0.2 bound, .3 foreign, .4 stale, 192.168.9.2 outside ── eth0 ══ pod ── node .1, sockets without a reader
//! ```
//!
//! A packet goes all the way from the sender's call to the receiver's socket (or the program that drops it) before the
//! call returns, on one processor, so the time of a call is the time of a packet. A packet that is dropped spares the
//! rest of the way, which is why a flood may be cheaper with the guard than without.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::programs::{TcAttachType, tc::SchedClassifierLinkId};
use holdfast_core::{
    guard_mode::GuardMode,
    id::{Generation, IfIndex, IfName},
    mac::Mac,
};
use holdfast_guard::{BindingEntry, Datapath, LinkInfo};
use holdfast_tests::{
    guarded::Node,
    netns::{Host, within},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{empty::Empty, packets::median};

const PACKETS: u32 = 20_000;
/// The number of rounds; each measures nothing, empty and guard in turn.
const ROUNDS: usize = 25;
const PAYLOAD: [u8; 64] = [0; 64];
const PORT: u16 = 9;

/// A pod's link, with the sockets that send over it.
struct Link {
    node: Node,
    pod: Host,
    index: IfIndex,
    name: IfName,
    mac: [u8; 6],
}

/// The programs on the link.
#[derive(Clone, Copy)]
enum Attached {
    Nothing,
    Empty,
    Guard,
}

pub(crate) fn run() -> Result<()> {
    let link = Link::new()?;
    let (guard, _reports) = link.node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4)])?;
    let mut empty = Empty::load()?;
    println!("\n# UDP through a veth: ns a packet with no program, an empty one, the guard; medians of {ROUNDS}");
    println!("{:28} {:>6} {:>6} {:>6}  guard/none guard/empty", "", "none", "empty", "guard");
    let node_address = Ipv4Addr::new(10, 7, 0, 1);
    let _sink = link.node.host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    for (what, source, destination) in [
        ("hit", Ipv4Addr::new(10, 7, 0, 2), node_address),
        ("miss, outside pools", Ipv4Addr::new(192, 168, 9, 2), Ipv4Addr::new(192, 168, 9, 1)),
        ("foreign, flood", Ipv4Addr::new(10, 7, 0, 3), node_address),
        ("stale, flood", Ipv4Addr::new(10, 7, 0, 4), node_address),
    ] {
        let socket = socket(&link.pod, source, destination)?;
        link.measure(what, &link.pod, &socket, &guard, &mut empty)?;
    }
    let pod_address = Ipv4Addr::new(10, 7, 0, 2);
    let _sink = link.pod.run(|| UdpSocket::bind((pod_address, PORT)))??;
    let socket = socket(&link.node.host, node_address, pod_address)?;
    link.measure("to the pod", &link.node.host, &socket, &guard, &mut empty)
}

impl Link {
    fn new() -> Result<Self> {
        let node = Node::new()?;
        let pod = Host::new("pod")?;
        let namespace = pod.path();
        let namespace = namespace.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?;
        node.host.ip(&format!("link add pod type veth peer name eth0 netns {namespace}"))?;
        node.host.ip("link set pod up")?;
        pod.ip("link set eth0 up")?;
        for address in ["10.7.0.2/24", "10.7.0.3/24", "10.7.0.4/24", "192.168.9.2/24"] {
            pod.ip(&format!("addr add {address} dev eth0"))?;
        }
        for address in ["10.7.0.1/24", "192.168.9.1/24"] {
            node.host.ip(&format!("addr add {address} dev pod"))?;
        }
        // Permanent neighbour entries: no host has to send ARP requests, which the guard would drop.
        let (mac, node_mac) = (pod.mac("eth0")?, node.host.mac("pod")?);
        for address in ["10.7.0.1", "192.168.9.1"] {
            pod.ip(&format!("neigh replace {address} lladdr {node_mac} dev eth0 nud permanent"))?;
        }
        node.host.ip(&format!("neigh replace 10.7.0.2 lladdr {mac} dev pod nud permanent"))?;
        let index = IfIndex(node.host.run(|| nix::net::if_::if_nametoindex("pod"))??);
        let mut bytes = [0; 6];
        for (byte, text) in bytes.iter_mut().zip(mac.split(':')) {
            *byte = u8::from_str_radix(text, 16)?;
        }
        Ok(Self { node, pod, index, name: "pod".parse()?, mac: bytes })
    }

    fn measure(
        &self,
        what: &str,
        sender: &Host,
        socket: &UdpSocket,
        guard: &Datapath,
        empty: &mut Empty,
    ) -> Result<()> {
        let variants = [Attached::Nothing, Attached::Empty, Attached::Guard];
        let mut times = variants.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (variant, times) in variants.into_iter().zip(&mut times) {
                let attached = self.attach(variant, guard, empty)?;
                times.push(sender.run(|| send(socket))??);
                self.detach(variant, attached, guard, empty)?;
            }
        }
        // The ratios are within a round, because the machine's load differs between rounds.
        let ratio = |base: &[Duration]| {
            let mut ratios: Vec<f64> =
                times[2].iter().zip(base).map(|(guard, base)| guard.as_secs_f64() / base.as_secs_f64()).collect();
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2]
        };
        let ratios = [ratio(&times[0]), ratio(&times[1])];
        let [none, empty, guard] = times.map(|mut times| median(&mut times).as_nanos());
        println!("{what:28} {none:>6} {empty:>6} {guard:>6}  {:>10.3} {:>11.3}", ratios[0], ratios[1]);
        Ok(())
    }

    /// Attaches a program in both directions, as the guard's programs are.
    fn attach(&self, what: Attached, guard: &Datapath, empty: &mut Empty) -> Result<Vec<SchedClassifierLinkId>> {
        match what {
            Attached::Nothing => Ok(Vec::new()),
            Attached::Empty => {
                let program = empty.program()?;
                self.node.host.run(|| {
                    let ways = [TcAttachType::Ingress, TcAttachType::Egress];
                    ways.into_iter().map(|way| Ok(program.attach(self.name.as_str(), way)?)).collect()
                })?
            }
            Attached::Guard => {
                let info = LinkInfo {
                    mac: Mac(self.mac),
                    container_tag: 1,
                    generation: Generation(1),
                    mode: GuardMode::Enforce,
                };
                self.node.host.run(|| guard.attach_pod_link(self.index, &self.name, info))??;
                for host in [2, 4] {
                    guard.bind(&BindingEntry {
                        link: self.index,
                        address: Ipv4Addr::new(10, 7, 0, host).into(),
                        generation: Generation(1),
                        container_tag: 1,
                        mac: Mac(self.mac),
                    })?;
                }
                guard.mark_stale(self.index, Ipv4Addr::new(10, 7, 0, 4).into())?;
                Ok(Vec::new())
            }
        }
    }

    fn detach(
        &self,
        what: Attached,
        attached: Vec<SchedClassifierLinkId>,
        guard: &Datapath,
        empty: &mut Empty,
    ) -> Result<()> {
        let program = empty.program()?;
        for link in attached {
            self.node.host.run(|| program.detach(link))??;
        }
        if matches!(what, Attached::Guard) {
            self.node.host.run(|| guard.detach_pod_link(self.index, &self.name))??;
        }
        Ok(())
    }
}

fn socket(host: &Host, from: Ipv4Addr, to: Ipv4Addr) -> Result<UdpSocket> {
    host.run(|| {
        // A new address may be in use a moment later than it is shown.
        within(Duration::from_secs(5), || {
            let socket = UdpSocket::bind(SocketAddrV4::new(from, 0))?;
            socket.connect(SocketAddrV4::new(to, PORT))?;
            Ok(socket)
        })
    })?
}

/// Returns the time of one packet, on average over [`PACKETS`].
fn send(socket: &UdpSocket) -> Result<Duration> {
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first)?;
    // Warms up, and fills the receiver's buffer.
    for _ in 0..PACKETS / 10 {
        socket.send(&PAYLOAD)?;
    }
    let begun = Instant::now();
    for _ in 0..PACKETS {
        socket.send(&PAYLOAD)?;
    }
    Ok(begun.elapsed() / PACKETS)
}
