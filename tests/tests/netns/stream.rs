//! A stream of numbered datagrams from the LAN to an address, while a newer sandbox takes the address over.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use holdfast_tests::netns::{Host, within};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::{V4, V6, add, lan, pod_net, spec};

const PORT: u16 = 7000;
/// Two thousand datagrams a second of each family, or fewer where a sleep takes longer.
const PAUSE: Duration = Duration::from_micros(500);
/// Datagrams of 20 ms at two thousand a second.
const TOLERATED: usize = 40;
const FAMILIES: [(u8, &str); 2] = [(4, V4), (6, V6)];

/// Sends until it is dropped.
struct Stream {
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(machine: &Host) -> Result<Self> {
        let sockets =
            machine.run(|| -> Result<_> { Ok((UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?)) })??;
        let (next, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (numbers, stopped) = (next.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let number = numbers.fetch_add(1, Ordering::SeqCst);
                for ((family, address), socket) in FAMILIES.iter().zip([&sockets.0, &sockets.1]) {
                    let mut datagram = vec![*family];
                    datagram.extend(number.to_be_bytes());
                    let address: IpAddr = address.parse().expect("an address");
                    socket.send_to(&datagram, (address, PORT)).expect("the machine sends");
                }
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self { next, stop, thread: Some(thread) })
    }

    /// Returns the number of the next datagram, which is sent after this call.
    fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    fn reaches(&self, number: u64) -> Result<()> {
        within(Duration::from_secs(20), || {
            ensure!(self.next() >= number, "the stream is at {}", self.next());
            Ok(())
        })
    }

    /// Stops the stream and returns the number of datagrams.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the stream");
        }
        self.next()
    }
}

/// The datagrams that arrive in a pod.
struct Listener {
    socket: UdpSocket,
    arrived: [BTreeSet<u64>; 2],
}

impl Listener {
    fn new(pod: &Host) -> Result<Self> {
        let socket = pod.run(|| UdpSocket::bind(("::", PORT)))??;
        // The buffer holds the whole stream, because a busy machine may not run this thread for a while.
        setsockopt(&socket, RcvBufForce, &(32 << 20))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { socket, arrived: Default::default() })
    }

    /// Receives until `enough` is set and no datagram has arrived for 0.2 s.
    fn listen(mut self, enough: &AtomicBool) -> Self {
        let mut datagram = [0; 9];
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            match self.socket.recv(&mut datagram) {
                Ok(9) => {
                    let number = u64::from_be_bytes(datagram[1..].try_into().expect("eight bytes"));
                    self.arrived[usize::from(datagram[0] == 6)].insert(number);
                }
                Ok(length) => panic!("a datagram of {length} bytes"),
                Err(_) if enough.load(Ordering::SeqCst) => break,
                Err(_) => {}
            }
        }
        self
    }
}

#[test]
fn a_stream_moves_to_the_newer_sandbox() -> Result<()> {
    let (_lan, machine, node, network) = lan()?;
    let (old_pod, new_pod) = (Host::new("old")?, Host::new("new")?);
    let (old_spec, new_spec) = (spec("c1", &old_pod.path()), spec("c2", &new_pod.path()));
    node.block_on(async || Ok(add(&network, &old_spec, &pod_net()).await?))?;
    machine.ping(V4)?;
    machine.ping(V6)?;

    let ended = Arc::<AtomicBool>::default();
    let [old, new] = [Listener::new(&old_pod)?, Listener::new(&new_pod)?].map(|listener| {
        let ended = ended.clone();
        std::thread::spawn(move || listener.listen(&ended))
    });
    let stream = Stream::start(&machine)?;
    stream.reaches(1000)?;
    let (switch, advertised) = node.block_on(async || {
        let link = network.create(&new_spec).await?;
        let configured = network.configure(&link, &pod_net()).await?;
        // The guard binds the addresses at this point of an ADD.
        let (began, first) = (Instant::now(), stream.next());
        network.advertise(&link, &pod_net(), &configured.uplink).await?;
        let (took, advertised) = (began.elapsed(), stream.next());
        network.withdraw(&old_spec.container.host_link(&old_spec.ifname)).await?;
        println!("advertised in {took:?}; datagrams {first} to {advertised} were sent meanwhile");
        // The stream goes on while announcements are repeated.
        stream.reaches(advertised + 5000)?;
        Ok((first, advertised))
    })?;
    let sent = stream.end();
    ended.store(true, Ordering::SeqCst);
    let (old, new) = (old.join().expect("the old pod"), new.join().expect("the new pod"));
    for (index, (family, _)) in FAMILIES.iter().enumerate() {
        let (old, new) = (&old.arrived[index], &new.arrived[index]);
        let lost: Vec<_> = (0..sent).filter(|number| !old.contains(number) && !new.contains(number)).collect();
        println!(
            "IPv{family}: {sent} sent, {} at the first, the last of them {:?}; {} at the second, from {:?}; lost {lost:?}",
            old.len(),
            old.last(),
            new.len(),
            new.first(),
        );
        // The datagram before may have got its number and not have been sent yet.
        ensure!(new.first().is_some_and(|number| number + 1 >= switch), "IPv{family}: taken before it was advertised");
        ensure!(old.last().is_some_and(|number| *number < advertised), "IPv{family}: the first still has it");
        let missing = (advertised..sent).find(|number| !new.contains(number));
        ensure!(missing.is_none(), "IPv{family}: {missing:?} was sent after {advertised} and has not arrived");
        ensure!(lost.len() < TOLERATED, "IPv{family}: {} datagrams were lost", lost.len());
    }
    Ok(())
}
