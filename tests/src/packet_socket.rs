//! Sending and receiving frames on an interface.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    setsockopt_impl,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt::{RcvBufForce, SetBool},
    },
};

use crate::{frames::Mac, netns::Host};

/// Longest time of a frame through a bridge of a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

/// Sent frames do not pass the queueing discipline.
#[derive(Debug, Clone, Copy)]
struct PacketQdiscBypass;
setsockopt_impl!(PacketQdiscBypass, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, bool, SetBool);

/// A packet socket (`packet(7)`) on one interface: it sends and receives whole frames.
pub struct PacketSocket {
    socket: OwnedFd,
    address: LinkAddr,
}

impl PacketSocket {
    /// Opens an interface of the host.
    pub fn open(host: &Host, interface: &str) -> Result<Self> {
        host.run(|| Self::here(interface))?
    }

    /// Opens an interface of the network namespace that the calling thread is in.
    pub fn here(interface: &str) -> Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        let address = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {interface}"))?;
        Ok(Self { socket, address })
    }

    /// Opens an interface of the host past its queueing discipline, and so past every program on the way out: any process with
    /// `CAP_NET_RAW` may ask for that.
    pub fn open_bypassing(host: &Host, interface: &str) -> Result<Self> {
        let opened = Self::open(host, interface)?;
        setsockopt(&opened.socket, PacketQdiscBypass, &true)?;
        Ok(opened)
    }

    /// Makes the receive buffer large enough for many thousand frames that are read only afterwards.
    pub fn enlarge_buffer(&self) -> Result<()> {
        Ok(setsockopt(&self.socket, RcvBufForce, &(64 << 20))?)
    }

    /// Returns the interface's MAC.
    pub fn mac(&self) -> Mac {
        self.address.addr().unwrap_or_default()
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        match sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty()) {
            // A guard on this very interface has dropped it.
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the received frames up to and including the first one that `last` recognizes. An error if that does not come
    /// within five seconds.
    pub fn receive_until(&self, last: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + LIMIT;
        let mut heard = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::try_from(left)?)? == 0 {
                bail!("the frame waited for was not heard within {LIMIT:?}; heard {} others", heard.len());
            }
            let mut buffer = vec![0; 2048];
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            buffer.truncate(length);
            heard.push(buffer);
            if heard.last().is_some_and(|frame| last(frame)) {
                return Ok(heard);
            }
        }
    }
}

/// Returns true if a frame contains the text.
pub fn has(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Returns true if a frame contains the address.
pub fn has_address(frame: &[u8], address: Ipv4Addr) -> bool {
    frame.windows(4).any(|window| window == address.octets())
}
