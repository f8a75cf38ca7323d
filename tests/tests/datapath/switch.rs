//! Two network namespaces with one address: what happens to streams while it changes hands, frame by frame.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_abi::Counter;
use holdfast_core::guard_mode::GuardMode;
use holdfast_tests::{
    frames::{self, Mac},
    guarded::{Node, binding, counted},
    netns::within,
    packet_socket::{PacketSocket, has},
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 9);

/// The address is one pod's, changes hands, is the other's; then the streams end.
const BEFORE: u32 = 0;
const MEANWHILE: u32 = 1;
const AFTER: u32 = 2;
const END: u32 = 3;

/// Rounds of a stream in each phase that something is said about, and the pause between two.
const ROUNDS: u64 = 500;
const PAUSE: Duration = Duration::from_micros(500);
/// However slow the machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A frame's stream, and which one of it it is.
type Number = (u32, u32);

/// As it stands in the frame.
fn text((stream, number): Number) -> String {
    format!("<st{stream}:{number:08}>")
}

fn number(frame: &[u8]) -> Option<Number> {
    let start = frame.windows(3).position(|window| window == b"<st")?;
    let text = std::str::from_utf8(frame.get(start + 3..start + 13)?).ok()?;
    let (stream, number) = text.split_once(':')?;
    Some((stream.parse().ok()?, number.parse().ok()?))
}

/// Makes a frame with a text in it. A bridge cuts off what comes after an IP packet's end.
type Make<'a> = Box<dyn Fn(&str) -> Vec<u8> + Sync + 'a>;

fn of_pod<'a>(mac: Mac) -> [Make<'a>; 4] {
    [
        Box::new(move |text| frames::ipv4(mac, ADDRESS, text)),
        Box::new(move |text| frames::ipv6(mac, ADDRESS6, text)),
        Box::new(move |text| [&frames::arp(mac, mac, ADDRESS), text.as_bytes()].concat()),
        Box::new(move |text| {
            let advertisement = frames::advertisement(mac, LINK_LOCAL, ADDRESS6, mac);
            // In a nonce.
            let body = [&advertisement[54..], &[14, 2], text.as_bytes()].concat();
            frames::ipv6_packet(mac, LINK_LOCAL, 255, 58, &body)
        }),
    ]
}

/// When a frame was sent. Where the phase changed while it was on its way, nothing is said of it.
type Sent = HashMap<Number, Option<u32>>;

struct Stream<'a> {
    socket: &'a PacketSocket,
    number: u32,
    frames: &'a [Make<'a>],
}

impl Stream<'_> {
    fn run(&self, phase: &AtomicU32, rounds: &[AtomicU64; 4]) -> Result<Sent> {
        let mut sent = Sent::new();
        loop {
            let begun = phase.load(SeqCst);
            if begun == END {
                return Ok(sent);
            }
            for frame in self.frames {
                let number = (self.number, u32::try_from(sent.len())?);
                let before = phase.load(SeqCst);
                self.socket.send(&frame(&text(number)))?;
                let certain = (phase.load(SeqCst) == before).then_some(before);
                sent.insert(number, certain);
            }
            rounds[begun as usize].fetch_add(1, SeqCst);
            thread::sleep(PAUSE);
        }
    }
}

/// How often each frame is heard up to a mark that is sent now.
fn heard(from: &PacketSocket, at: &PacketSocket, mark: &str) -> Result<HashMap<Number, u32>> {
    from.send(&frames::other(from.mac(), mark))?;
    let mut heard = HashMap::new();
    for frame in at.receive_until(|frame| has(frame, mark))? {
        if let Some(number) = number(&frame) {
            *heard.entry(number).or_default() += 1;
        }
    }
    Ok(heard)
}

/// Fails unless of the frames of one stream exactly those of `phase` were heard, each once.
fn only(phase: u32, sent: &Sent, heard: &HashMap<Number, u32>) -> Result<()> {
    let wrong: BTreeMap<Number, (Option<u32>, u32)> = sent
        .iter()
        .map(|(number, when)| (*number, (*when, heard.get(number).copied().unwrap_or_default())))
        .filter(|(_, (when, times))| match when {
            Some(when) if [BEFORE, AFTER].contains(when) => *times != u32::from(*when == phase),
            _ => *times > 1,
        })
        .collect();
    let some: Vec<_> = wrong.iter().take(8).collect();
    ensure!(wrong.is_empty(), "of {} frames {} were not heard as they should: {some:?}", sent.len(), wrong.len());
    Ok(())
}

fn an_address_changes_hands(node: &Node) -> Result<()> {
    let (guard, _events) = node.open()?;
    guard.set_pools(&[("10.7.0.0/16".parse()?, 4), ("fd07::/64".parse()?, 6)])?;
    let (old, new) = (node.pod("old")?, node.pod("new")?);
    for pod in [&old, &new] {
        node.guard(&guard, pod, GuardMode::Enforce)?;
    }
    for address in [IpAddr::from(ADDRESS), ADDRESS6.into()] {
        guard.bind(&binding(&old, address, 1))?;
    }
    for socket in [&node.lan, &old.socket, &new.socket] {
        socket.enlarge_buffer()?;
    }
    let (of_old, of_new) = (of_pod(old.socket.mac()), of_pod(new.socket.mac()));
    let of_lan: [Make<'_>; 1] = [Box::new(|text| frames::ipv4_to(node.lan.mac(), REMOTE, ADDRESS, text))];
    let streams = [
        Stream { socket: &old.socket, number: 0, frames: &of_old },
        Stream { socket: &new.socket, number: 1, frames: &of_new },
        Stream { socket: &node.lan, number: 2, frames: &of_lan },
    ];
    let phase = AtomicU32::new(BEFORE);
    let rounds: [[AtomicU64; 4]; 3] = Default::default();
    let [of_old, of_new, of_lan] = thread::scope(|scope| -> Result<[Sent; 3]> {
        let running = [0, 1, 2].map(|number: usize| {
            let (stream, phase, rounds) = (&streams[number], &phase, &rounds[number]);
            scope.spawn(move || stream.run(phase, rounds))
        });
        let all_ran = |phase: u32| {
            within(LIMIT, || {
                let run = rounds.each_ref().map(|rounds| rounds[phase as usize].load(SeqCst));
                ensure!(run.iter().all(|run| *run >= ROUNDS), "rounds in phase {phase}: {run:?}");
                Ok(())
            })
        };
        let outcome = all_ran(BEFORE).and_then(|()| {
            phase.store(MEANWHILE, SeqCst);
            for address in [IpAddr::from(ADDRESS), ADDRESS6.into()] {
                guard.bind(&binding(&new, address, 2))?;
            }
            phase.store(AFTER, SeqCst);
            all_ran(AFTER)
        });
        // They end whatever came before: the threads are waited for.
        phase.store(END, SeqCst);
        let sent = running.map(|stream| stream.join().expect("a stream does not panic"));
        outcome?;
        let [old, new, lan] = sent;
        Ok([old?, new?, lan?])
    })?;

    let mut at_lan = heard(&old.socket, &node.lan, "the old one has ended")?;
    for (number, times) in heard(&new.socket, &node.lan, "the new one has ended")? {
        *at_lan.entry(number).or_default() += times;
    }
    only(BEFORE, &of_old, &at_lan).context("from the older holder")?;
    only(AFTER, &of_new, &at_lan).context("from the newer holder")?;

    // To the address: the older holder hears all of it before and nothing after; the newer one everything after.
    let at_old = heard(&node.lan, &old.socket, "that was for the old one")?;
    only(BEFORE, &of_lan, &at_old).context("to the older holder")?;
    let at_new = heard(&node.lan, &new.socket, "that was for the new one")?;
    for (number, _) in of_lan.iter().filter(|(_, when)| **when == Some(AFTER)) {
        ensure!(at_new.get(number) == Some(&1), "{number:?} did not reach the newer holder");
    }

    // Every frame is either heard or counted.
    let kept = |sent: &Sent, kind: Option<u32>| {
        let of_kind = |number: &&Number| kind.is_none_or(|kind| number.1 % 4 == kind);
        sent.keys().filter(of_kind).filter(|number| !at_lan.contains_key(number)).count() as u64
    };
    let counters = guard.counters()?;
    ensure!(counters.get(Counter::DropStale) == kept(&of_old, None), "{counters:?}");
    ensure!(counters.get(Counter::DropForeign) == kept(&of_new, None), "{counters:?}");
    ensure!(counters.get(Counter::DropArp) == kept(&of_old, Some(2)) + kept(&of_new, Some(2)), "{counters:?}");
    ensure!(counters.get(Counter::DropNd) == kept(&of_old, Some(3)) + kept(&of_new, Some(3)), "{counters:?}");
    let to_old = of_lan.keys().filter(|number| !at_old.contains_key(number)).count() as u64;
    ensure!(counted(&guard, Counter::DropToStale)? >= to_old, "{counters:?}");
    Ok(())
}

#[test]
fn every_frame_is_on_one_side_of_the_switch() -> Result<()> {
    an_address_changes_hands(&Node::new()?)
}

#[test]
fn every_frame_is_on_one_side_of_the_switch_with_clsact() -> Result<()> {
    an_address_changes_hands(&Node::with_clsact()?)
}
