//! The hooks of interfaces: pinned tcx links, or filters of a clsact qdisc below Linux 6.6.

use std::{io, path::Path};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};
use holdfast_core::id::IfName;

use crate::{error::DatapathError, pins::remove};

/// Before all other filters: they must not see what the guard drops.
const CLSACT_PRIORITY: u16 = 1;
/// The handle of the guard's filter among those of that priority ("HF").
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x4846);

/// The kind of hook that programs attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// tcx links, pinned in bpffs: a pod cannot detach them.
    Tcx,
    /// Filters of a clsact qdisc, which live as long as the interface.
    Clsact,
}

impl Hook {
    /// Returns the best hook that this kernel has.
    pub(super) fn choose(clsact: bool) -> Self {
        let tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if tcx && !clsact { Self::Tcx } else { Self::Clsact }
    }
}

/// Attaches and pins, or swaps the program of a link that is pinned already.
pub(super) fn attach_tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    ifname: &IfName,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    if swap(program, pin, Some((ifname, direction)))? {
        return Ok(());
    }
    // First: other programs must not see what the guard drops.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(ifname.as_str(), direction, order)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin).map_err(|source| AttachError::Pin(DatapathError::Pin { path: pin.to_owned(), source }))?;
    Ok(())
}

/// Swaps the program of a pinned link, in one step. Returns false, and removes the pin, if there is no link (any more)
/// or it is on another interface than `expected`.
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
        // This closes the process's descriptor only; the pin keeps the link.
        program.take_link(id)?;
        Ok(())
    });
    match swapped {
        Ok(()) => Ok(true),
        // The interface is gone: the link is attached to nothing.
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

/// Replaces the guard's filter in one step, or adds it. It stays when this process ends.
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
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes the guard's filter, if it is there. An error leaves it to the end of the interface.
pub(super) fn detach_clsact(ifname: &IfName, direction: TcAttachType) {
    let ours = SchedClassifierLink::attached(ifname.as_str(), direction, CLSACT_PRIORITY, CLSACT_HANDLE, None);
    drop(ours);
}

/// An error of attaching, without the interface's name.
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
