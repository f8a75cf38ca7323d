//! The guard on the node's way to the LAN.
//!
//! Every uplink is listened to: whoever claims an address that is bound here is reported. On one that pods share, as
//! macvlan's do, what they send is also judged on its way out. The guard inside such a pod is before that, but a packet
//! socket has a way past it.

use aya::programs::TcAttachType;
use holdfast_abi::LINK_SHARED;
use holdfast_core::{
    id::{IfIndex, IfName},
    mac::Mac,
};

use super::{
    Datapath, DatapathError, Link, LinkInfo, LinkRole, State,
    attach::Hook,
    pins::{EGRESS, remove},
};

impl Datapath {
    /// Watches what the LAN says about addresses bound here. Doing it again is free.
    pub fn attach_uplink(&self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        let mut state = self.state();
        if state.attached.contains(&(link, ifname.clone())) {
            return Ok(());
        }
        state.set_link(link, ifname, LinkRole::Uplink, LinkInfo::default(), 0)?;
        state.attach(link, ifname, LinkRole::Uplink, false)
    }

    /// As [`Self::attach_uplink`], for the interface that a link inside a pod is on (macvlan's master). What pods send is
    /// judged there as well, on the way past the guard inside them. This ends with the last link inside a pod: to be called
    /// after each of them is attached. Doing it again is free.
    pub fn attach_shared_uplink(&self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        let mut state = self.state();
        let known = (link, ifname.clone());
        if state.maps.links()?.iter().any(|uplink| uplink.link == link && uplink.shared)
            && state.attached.contains(&known)
        {
            return Ok(());
        }
        state.set_link(link, ifname, LinkRole::Uplink, LinkInfo::default(), LINK_SHARED)?;
        // It may be attached as one that nobody shares.
        state.attached.remove(&known);
        state.attach(link, ifname, LinkRole::Uplink, true)
    }
}

impl State {
    /// Without any link inside a pod, nobody shares an uplink: what leaves there need not be looked at.
    pub(super) fn unshare(&mut self) -> Result<(), DatapathError> {
        let (inside, others): (Vec<Link>, Vec<Link>) = self.maps.links()?.into_iter().partition(|link| link.inside);
        if !inside.is_empty() {
            return Ok(());
        }
        let shared = others.into_iter().filter(|uplink| uplink.shared);
        shared.map(|uplink| self.unshare_uplink(&uplink)).fold(Ok(()), Result::and)
    }

    fn unshare_uplink(&mut self, uplink: &Link) -> Result<(), DatapathError> {
        if self.hook == Hook::Clsact {
            super::attach::detach_clsact(&uplink.name, TcAttachType::Egress);
        }
        remove(&self.pins.link(uplink.name.as_str(), EGRESS))?;
        self.set_link(uplink.link, &uplink.name, LinkRole::Uplink, uplink.info, 0)
    }
}

/// Whether an interface of this namespace has the MAC. Pods on ipvlan have their node's: a frame with it may be anybody's.
pub(super) fn is_nodes(mac: Mac) -> bool {
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else { return true };
    interfaces.any(|interface| {
        let address = interface.address.as_ref().and_then(nix::sys::socket::SockaddrStorage::as_link_addr);
        address.is_some_and(|address| address.addr() == Some(mac.0))
    })
}
