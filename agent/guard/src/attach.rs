//! The programs of a link: attached, replaced, detached.

use aya::programs::TcAttachType;
use holdfast_abi::{LINK_CLSACT, LINK_INSIDE};
use holdfast_core::id::{IfIndex, IfName};

use crate::{
    entries::{LinkInfo, LinkRole, link_value},
    error::DatapathError,
    hook::{Hook, add_qdisc, attach_clsact, attach_error, attach_tcx, detach_clsact},
    interfaces::{index_of, is_nodes},
    load::{FROM_POD, TO_POD, UPLINK, UPLINK_OUT},
    pins::{self, EGRESS, INGRESS},
    state::State,
};

/// Returns the programs of a role, with the pin and the direction of each.
fn placements(role: LinkRole, shared: bool) -> &'static [(&'static str, &'static str, TcAttachType)] {
    match role {
        LinkRole::Pod => &[(FROM_POD, INGRESS, TcAttachType::Ingress), (TO_POD, EGRESS, TcAttachType::Egress)],
        LinkRole::Uplink if shared => {
            &[(UPLINK, INGRESS, TcAttachType::Ingress), (UPLINK_OUT, EGRESS, TcAttachType::Egress)]
        }
        LinkRole::Uplink => &[(UPLINK, INGRESS, TcAttachType::Ingress)],
    }
}

impl State {
    /// Writes a link's value into the maps.
    pub(super) fn set_link(
        &mut self,
        link: IfIndex,
        ifname: &IfName,
        role: LinkRole,
        info: LinkInfo,
        mut flags: u32,
    ) -> Result<(), DatapathError> {
        // The MAC of a link on the host side is its pod's alone.
        let own_mac = flags & LINK_INSIDE == 0 || !is_nodes(info.mac);
        if self.hook == Hook::Clsact {
            flags |= LINK_CLSACT;
        }
        self.maps.put_link(link, link_value(ifname, role, info, flags), own_mac)
    }

    /// Attaches the programs of a role to an interface of this namespace, or replaces an earlier agent's.
    pub(super) fn attach(
        &mut self,
        link: IfIndex,
        ifname: &IfName,
        role: LinkRole,
        shared: bool,
    ) -> Result<(), DatapathError> {
        let known = (link, ifname.clone());
        if self.attached.contains(&known) {
            return Ok(());
        }
        if index_of(ifname) != Some(link) {
            self.maps.remove_link(link)?;
            return Err(DatapathError::NoInterface { name: ifname.clone(), link });
        }
        if self.hook == Hook::Clsact {
            add_qdisc(ifname)?;
        }
        for &(name, side, direction) in placements(role, shared) {
            let program = self.programs.classifier(name)?;
            match self.hook {
                Hook::Tcx => attach_tcx(program, &self.pins.link(ifname.as_str(), side), ifname, direction),
                Hook::Clsact => attach_clsact(program, ifname, direction),
            }
            .map_err(|error| attach_error(name, ifname.as_str(), error))?;
        }
        self.attached.insert(known);
        Ok(())
    }

    /// Detaches the programs and forgets the link.
    pub(super) fn detach(&mut self, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        let inside = self.maps.links()?.iter().any(|known| known.link == link && known.inside);
        let bindings = self.maps.remove_bindings(link);
        if self.hook == Hook::Clsact && !inside && index_of(ifname) == Some(link) {
            detach_clsact(ifname, TcAttachType::Ingress);
            detach_clsact(ifname, TcAttachType::Egress);
        }
        let forgotten = bindings.and(self.forget(link, ifname, inside));
        if inside { forgotten.and(self.unshare()) } else { forgotten }
    }

    /// Forgets a link whose interface is gone or no longer ours.
    pub(super) fn forget(&mut self, link: IfIndex, ifname: &IfName, inside: bool) -> Result<(), DatapathError> {
        self.attached.remove(&(link, ifname.clone()));
        let pin = if inside { pins::pod_netns_name(link) } else { ifname.to_string() };
        let bindings = self.maps.remove_bindings(link);
        // An interface of the same name may have come since, and carry pins of that name that are its own.
        let pins = if !inside && index_of(ifname).is_some_and(|found| found != link) {
            Ok(())
        } else {
            self.pins.remove_link(&pin)
        };
        bindings.and(pins).and(self.maps.remove_link(link))
    }
}
