//! Programs on interfaces: pinned tcx links, or filters of a clsact qdisc below Linux 6.6.

use std::{io, path::Path};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};
use holdfast_abi::{LINK_CLSACT, LINK_INSIDE};
use holdfast_core::id::{IfIndex, IfName};

use super::{
    DatapathError, LinkInfo, LinkRole, State,
    entries::link_value,
    load::{FROM_POD, TO_POD, UPLINK, UPLINK_OUT},
    pins::{EGRESS, INGRESS, remove},
    uplink::is_nodes,
};

/// Before everyone else's filters: what the guard drops is not for them to see.
const CLSACT_PRIORITY: u16 = 1;
/// Ours among filters of that priority ("HF").
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x4846);

/// How programs get onto an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Links that bpffs keeps, and that a pod cannot take off.
    Tcx,
    /// Filters that the interface keeps.
    Clsact,
}

impl Hook {
    /// The best one this kernel has.
    pub(super) fn choose(clsact: bool) -> Self {
        let tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if tcx && !clsact { Self::Tcx } else { Self::Clsact }
    }
}

/// The programs of a role, with the pin and the direction of each.
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
    /// Takes over what an earlier agent left: programs are swapped on interfaces that are there, everything of others
    /// is removed. One link that resists does not keep the others from being guarded.
    pub(super) fn adopt(&mut self) -> Result<(), DatapathError> {
        let links = self.maps.links()?;
        for link in &links {
            if link.inside && is_nodes(link.info.mac) {
                self.maps.remove_mac(link.link, link.info.mac)?;
            }
            let there = if link.inside { self.swap_inside(link) } else { Ok(index_of(&link.name) == Some(link.link)) };
            let result = match there {
                Ok(true) if link.inside => Ok(()),
                Ok(true) => self.attach(link.link, &link.name, link.role, link.shared),
                Ok(false) => {
                    tracing::info!(link = %link.link, name = %link.name, "the interface is gone: removing its guard");
                    self.forget(link.link, &link.name, link.inside)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(link = %link.link, name = %link.name, %error, "not adopted");
            }
        }
        self.unshare()?;
        self.remove_orphans()?;
        super::settle::settle(&mut self.maps)
    }

    /// Removes bindings of links that nobody knows, and pins that belong to no link.
    fn remove_orphans(&mut self) -> Result<(), DatapathError> {
        let links = self.maps.links()?;
        for binding in self.maps.bindings()? {
            if !links.iter().any(|link| link.link == binding.entry.link) {
                self.maps.remove_bindings(binding.entry.link)?;
            }
        }
        let known: Vec<_> = links
            .iter()
            .flat_map(|link| {
                let name = if link.inside { super::inside::pin_name(link.link) } else { link.name.to_string() };
                [INGRESS, EGRESS].map(|side| self.pins.link(&name, side))
            })
            .collect();
        for name in self.pins.link_pins()? {
            let path = self.pins.links().join(&name);
            if !known.contains(&path) && name != super::sandbox::PIN {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Writes down what is known of a link.
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

    /// Puts the programs of a role on an interface of this namespace, or this agent's in the place of an earlier one's.
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

    /// Takes the programs off and forgets the link.
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
    fn forget(&mut self, link: IfIndex, ifname: &IfName, inside: bool) -> Result<(), DatapathError> {
        self.attached.remove(&(link, ifname.clone()));
        let pin = if inside { super::inside::pin_name(link) } else { ifname.to_string() };
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

/// Attaches and pins, or swaps the program of a link that is pinned already.
fn attach_tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    ifname: &IfName,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    if swap(program, pin, Some((ifname, direction)))? {
        return Ok(());
    }
    // First: what the guard drops is not for others to see.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(ifname.as_str(), direction, order)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin).map_err(|source| AttachError::Pin(DatapathError::Pin { path: pin.to_owned(), source }))?;
    Ok(())
}

/// Swaps the program of a pinned link, in one step. False, and the pin removed, if there is no link there (any more),
/// or one of another interface than it should be.
pub(super) fn swap(
    program: &mut SchedClassifier,
    pin: &Path,
    expected: Option<(&IfName, TcAttachType)>,
) -> Result<bool, AttachError> {
    let pinned = match PinnedLink::from_pin(pin) {
        Ok(pinned) => FdLink::from(pinned),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if let Some((ifname, direction)) = expected {
        let ours = pinned.info()?.program_id();
        let (_, there) = SchedClassifier::query_tcx(ifname.as_str(), direction)?;
        if !there.iter().any(|info| info.id() == ours) {
            drop(pinned);
            remove(pin).map_err(AttachError::Pin)?;
            return Ok(false);
        }
    }
    let swapped = SchedClassifierLink::try_from(pinned).map_err(AttachError::from).and_then(|link| {
        let id = program.attach_to_link(link)?;
        // Only this process's descriptor closes with it; the pin keeps the link.
        program.take_link(id)?;
        Ok(())
    });
    match swapped {
        Ok(()) => Ok(true),
        // The interface is gone, and the link is an empty shell.
        Err(error) if error.os_error() == Some(nix::libc::ENOLINK) => {
            remove(pin).map_err(AttachError::Pin)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn add_qdisc(ifname: &IfName) -> Result<(), DatapathError> {
    match tc::qdisc_add_clsact(ifname.as_str()) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(nix::libc::EEXIST) => Ok(()),
        other => other.map_err(|source| DatapathError::Qdisc { name: ifname.clone(), source }),
    }
}

/// Replaces our filter in one step, or adds it. It stays when this process ends.
pub(super) fn attach_clsact(
    program: &mut SchedClassifier,
    ifname: &IfName,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    let ours = SchedClassifierLink::attached(ifname.as_str(), direction, CLSACT_PRIORITY, CLSACT_HANDLE, None)
        .map_err(|error| AttachError::Program(TcError::IoError(error).into()))?;
    let id = program.attach_to_link(ours).or_else(|_| {
        let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
        program.attach_with_options(ifname.as_str(), direction, TcAttachOptions::Netlink(options))
    })?;
    // Dropping it would take the filter off.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Best effort: a filter that is not there is what was wanted, and others go with their interface.
pub(super) fn detach_clsact(ifname: &IfName, direction: TcAttachType) {
    let ours = SchedClassifierLink::attached(ifname.as_str(), direction, CLSACT_PRIORITY, CLSACT_HANDLE, None);
    drop(ours);
}

/// The index that an interface of this name has now.
pub(super) fn index_of(ifname: &IfName) -> Option<IfIndex> {
    nix::net::if_::if_nametoindex(ifname.as_str()).ok().map(IfIndex)
}

/// What attaching meets, before it is known on which interface.
#[derive(Debug)]
pub(super) enum AttachError {
    Program(ProgramError),
    Link(LinkError),
    Pin(DatapathError),
}

impl AttachError {
    fn os_error(&self) -> Option<i32> {
        match self {
            Self::Program(ProgramError::SyscallError(error)) => error.io_error.raw_os_error(),
            _ => None,
        }
    }
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

impl From<LinkError> for AttachError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

pub(super) fn attach_error(program: &'static str, name: &str, error: AttachError) -> DatapathError {
    match error {
        AttachError::Program(source) => DatapathError::Attach { program, name: name.to_owned(), source },
        AttachError::Link(source) => DatapathError::Link { program, name: name.to_owned(), source },
        AttachError::Pin(error) => error,
    }
}
