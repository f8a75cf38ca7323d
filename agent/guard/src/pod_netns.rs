//! The guard inside a pod's network namespace, for links without a host side (macvlan, ipvlan).
//!
//! There interface indexes repeat from pod to pod, so each such link gets a number above all that the kernel gives to
//! interfaces, and its own copy of the programs with that number in it. The maps are shared.
//!
//! A packet socket can get past it (`PACKET_QDISC_BYPASS`). The guard on the shared uplink
//! ([`Datapath::attach_shared_uplink`](crate::Datapath::attach_shared_uplink)) judges such frames again by the pod's MAC; a
//! frame with another pod's MAC passes there. On ipvlan all pods have one MAC, so that guard cannot tell them apart.

use std::os::fd::BorrowedFd;

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions};
use holdfast_abi::{FIRST_INSIDE, LINK_INSIDE, META_NEXT_INSIDE};
use holdfast_core::id::{IfIndex, IfName};

use crate::{
    entries::{Link, LinkInfo, LinkRole},
    error::DatapathError,
    hook::{AttachError, Hook, add_qdisc, attach_clsact, attach_error, swap},
    load::{FROM_POD, TO_POD, load},
    maps::failed,
    pins::{self, EGRESS, INGRESS},
    state::State,
};

/// Inside the pod the directions are reversed.
const PLACEMENTS: [(&str, &str, TcAttachType); 2] =
    [(FROM_POD, INGRESS, TcAttachType::Egress), (TO_POD, EGRESS, TcAttachType::Ingress)];

impl State {
    /// Attaches to an interface inside a pod's namespace. Returns the number of the link.
    pub(super) fn guard_pod_netns(
        &mut self,
        netns: BorrowedFd<'_>,
        ifname: &IfName,
        value: LinkInfo,
    ) -> Result<IfIndex, DatapathError> {
        let link = self.next_number()?;
        self.set_link(link, ifname, LinkRole::Pod, value, LINK_INSIDE)?;
        let attached = self.attach_inside(netns, link, ifname);
        if attached.is_err() {
            self.detach(link, ifname)?;
        }
        attached.map(|()| link)
    }

    /// Returns a number that no link has had since these maps were made. It is recorded as used before it is given out.
    fn next_number(&mut self) -> Result<IfIndex, DatapathError> {
        let links = self.maps.links()?;
        // An agent that did not record the next number may have left links.
        let highest = links.iter().filter(|link| link.inside).map(|link| link.link.0).max();
        let written = self.maps.meta.get(&META_NEXT_INSIDE, 0).map_err(failed("META"))?;
        let number = next_number(written, highest)?;
        self.maps.meta.set(META_NEXT_INSIDE, u64::from(number) + 1, 0).map_err(failed("META"))?;
        Ok(IfIndex(number))
    }

    fn attach_inside(&mut self, netns: BorrowedFd<'_>, link: IfIndex, ifname: &IfName) -> Result<(), DatapathError> {
        let mut programs = load(&self.object, &self.pins, false, Some(link.0))?;
        let pin = pins::pod_netns_name(link);
        if self.hook == Hook::Clsact {
            enter(netns, || add_qdisc(ifname))??;
        }
        for (name, side, direction) in PLACEMENTS {
            let program = programs.classifier(name)?;
            let attached = match self.hook {
                Hook::Tcx => enter(netns, || attach(program, ifname, direction))?.and_then(|link| {
                    let path = self.pins.link(&pin, side);
                    let pinned = link.pin(&path).map(drop);
                    pinned.map_err(|source| AttachError::Pin(DatapathError::Pin { path, source }))
                }),
                Hook::Clsact => enter(netns, || attach_clsact(program, ifname, direction))?,
            };
            attached.map_err(|error| attach_error(name, ifname.as_str(), error))?;
        }
        Ok(())
    }

    /// Swaps the programs of a pinned link inside a pod for this agent's. Returns false if its interface is gone.
    pub(super) fn swap_inside(&mut self, link: &Link) -> Result<bool, DatapathError> {
        if self.hook == Hook::Clsact {
            return Ok(true);
        }
        let mut programs = load(&self.object, &self.pins, false, Some(link.link.0))?;
        let pin = pins::pod_netns_name(link.link);
        for (name, side, _) in PLACEMENTS {
            let program = programs.classifier(name)?;
            let swapped = swap(program, &self.pins.link(&pin, side), None);
            if !swapped.map_err(|error| attach_error(name, &pin, error))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn next_number(written: u64, highest: Option<u32>) -> Result<u32, DatapathError> {
    let next = written.max(u64::from(FIRST_INSIDE)).max(highest.map_or(0, |highest| u64::from(highest) + 1));
    u32::try_from(next).map_err(|_| DatapathError::Numbers)
}

fn attach(program: &mut SchedClassifier, ifname: &IfName, direction: TcAttachType) -> Result<FdLink, AttachError> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(ifname.as_str(), direction, order)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn enter<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, DatapathError> {
    holdfast_netns::run_in(netns, work).map_err(DatapathError::Netns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_only_grow() {
        for (written, highest, next) in [
            (0, None, FIRST_INSIDE),
            (0, Some(FIRST_INSIDE + 4), FIRST_INSIDE + 5),
            (u64::from(FIRST_INSIDE) + 9, Some(FIRST_INSIDE + 4), FIRST_INSIDE + 9),
            (u64::from(FIRST_INSIDE) + 9, None, FIRST_INSIDE + 9),
            (u64::from(u32::MAX), None, u32::MAX),
        ] {
            assert_eq!(next_number(written, highest).unwrap(), next);
        }
        assert!(matches!(next_number(1 << 32, None), Err(DatapathError::Numbers)));
    }
}
