//! What the LAN says about addresses that are bound here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use holdfast_abi::Counter;
use holdfast_core::{guard_mode::GuardMode, id::IfIndex};
use holdfast_guard::{EventKind, Via};
use holdfast_tests::{
    frames,
    guarded::{Node, binding, counted},
    packet_socket::has,
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

#[test]
fn foreign_claims_are_reported_and_never_dropped() -> Result<()> {
    let node = Node::new()?;
    let (guard, mut events) = node.open()?;
    let pod = node.pod("a")?;
    node.guard(&guard, &pod, GuardMode::Enforce)?;
    for address in [IpAddr::from(ADDRESS), ADDRESS6.into()] {
        guard.bind(&binding(&pod, address, 3))?;
    }
    let uplink = node.host.run(|| nix::net::if_::if_nametoindex("lan"))?.map(IfIndex)?;
    for _ in 0..2 {
        node.host.run(|| guard.attach_uplink(uplink, &"lan".parse().expect("a name")))??;
    }
    let lan = node.lan.mac();
    let claims = [
        (Via::Arp, IpAddr::from(ADDRESS), frames::arp(lan, lan, ADDRESS)),
        (Via::Nd, ADDRESS6.into(), frames::advertisement(lan, ADDRESS6, ADDRESS6, lan)),
        (Via::Nd, ADDRESS6.into(), frames::solicitation(lan, ADDRESS6, ROUTER, lan)),
        (Via::Nd, ADDRESS6.into(), frames::redirect(lan, ROUTER, ADDRESS6, ADDRESS6, Some(lan))),
    ];
    for (via, address, frame) in claims {
        node.lan.send(&frame)?;
        let seen = events.wait()?;
        ensure!((seen.kind, seen.via, seen.address) == (EventKind::Conflict, via, address), "{seen:?}");
        ensure!(seen.link == uplink && seen.mac.0 == lan && !seen.dropped, "{seen:?}");
        ensure!(
            seen.holder.is_some_and(|holder| holder.mac.0 == pod.socket.mac() && holder.link == pod.link),
            "{seen:?}"
        );
        pod.socket.receive_until(|heard| *heard == frame)?;
    }
    // Questions, other addresses and the holder's own MAC are no conflicts.
    let mac = pod.socket.mac();
    for frame in [
        frames::arp_probe(lan, ADDRESS),
        frames::arp(lan, lan, Ipv4Addr::new(10, 7, 0, 3)),
        frames::detection(lan, ADDRESS6),
        frames::arp(lan, mac, ADDRESS),
        frames::solicitation(lan, ROUTER, ADDRESS6, lan),
        frames::redirect(lan, ROUTER, ADDRESS6, ADDRESS6, None),
        frames::other(lan, "the last one"),
    ] {
        node.lan.send(&frame)?;
    }
    pod.socket.receive_until(|heard| has(heard, "the last one"))?;
    ensure!(counted(&guard, Counter::Conflicts)? == 4, "{:?}", guard.counters()?);
    Ok(())
}
