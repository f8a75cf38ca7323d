//! The guard on the node's uplinks.
//!
//! The guard listens on every uplink and reports a foreign host that claims an address bound here. On an uplink that pods
//! share, as macvlan's do, it also judges what they send: a packet socket gets past the guard inside such a pod.

use aya::programs::TcAttachType;
use holdfast_abi::LINK_SHARED;
use holdfast_core::id::{IfIndex, IfName};

use crate::{
    entries::{Link, LinkInfo, LinkRole},
    error::DatapathError,
    hook::{Hook, detach_clsact},
    pins::{EGRESS, remove},
    state::State,
};

impl State {
    /// Attaches to an uplink. Repeating it is free.
    pub(super) fn attach_uplink(&mut self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        if self.attached.contains(&(link, ifname.clone())) {
            return Ok(());
        }
        self.set_link(link, ifname, LinkRole::Uplink, LinkInfo::default(), 0)?;
        self.attach(link, ifname, LinkRole::Uplink, false)
    }

    /// Attaches to an uplink that pods share. Repeating it is free.
    pub(super) fn attach_shared_uplink(&mut self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        let known = (link, ifname.clone());
        if self.maps.links()?.iter().any(|uplink| uplink.link == link && uplink.shared)
            && self.attached.contains(&known)
        {
            return Ok(());
        }
        self.set_link(link, ifname, LinkRole::Uplink, LinkInfo::default(), LINK_SHARED)?;
        // It may be attached as an uplink that no pods share.
        self.attached.remove(&known);
        self.attach(link, ifname, LinkRole::Uplink, true)
    }

    /// Stops judging what leaves by shared uplinks if no link inside a pod is left.
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
            detach_clsact(&uplink.name, TcAttachType::Egress);
        }
        remove(&self.pins.link(uplink.name.as_str(), EGRESS))?;
        self.set_link(uplink.link, &uplink.name, LinkRole::Uplink, uplink.info, 0)
    }
}
