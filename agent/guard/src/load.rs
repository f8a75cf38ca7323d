//! Loading: from the object file to programs in the kernel.

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{ProgramError, RawTracePoint, SchedClassifier},
};
use aya_log::EbpfLogger;
use log::Log;

use crate::{
    config::Config,
    error::DatapathError,
    maps,
    pins::{self, Pins},
};

/// The only level at which the programs log.
pub(super) const DEBUG: u8 = 4;
/// The level at which they log nothing.
pub(super) const OFF: u8 = 0;

/// The programs as committed; `cargo xtask build-ebpf` makes them.
static OBJECT: &[u8] = include_bytes_aligned!("../../../ebpf/objects/holdfast.bpf.o");

/// Judges what a pod sends.
pub(super) const FROM_POD: &str = "guard_from_pod";
/// Judges what a pod gets.
pub(super) const TO_POD: &str = "guard_to_pod";
/// Listens to the LAN.
pub(super) const UPLINK: &str = "watch_uplink";
/// Judges what leaves by an uplink that pods share.
pub(super) const UPLINK_OUT: &str = "guard_uplink_out";
/// The ring of log records. Each load has its own and does not pin it: the records have no version.
pub(super) const LOGS: &str = "AYA_LOGS";
/// Sees sandboxes end.
pub(super) const SANDBOX: &str = "sandbox_exit";

/// The programs, loaded.
pub(super) struct Programs(Ebpf);

impl Programs {
    /// Returns a classifier.
    pub(super) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, DatapathError> {
        let program = self.0.program_mut(name).ok_or(DatapathError::Missing(name))?;
        program.try_into().map_err(refused(name))
    }

    /// Returns the reader of the programs' log.
    pub(super) fn logger(&mut self) -> Result<EbpfLogger<&'static dyn Log>, aya_log::Error> {
        EbpfLogger::init(&mut self.0)
    }

    /// Returns the sandbox program, not loaded yet: not every kernel accepts it.
    pub(super) fn sandbox(&mut self) -> Result<&mut RawTracePoint, DatapathError> {
        let program = self.0.program_mut(SANDBOX).ok_or(DatapathError::Missing(SANDBOX))?;
        program.try_into().map_err(refused(SANDBOX))
    }
}

/// Returns the object to load.
pub(super) fn object(config: &Config) -> Result<Vec<u8>, DatapathError> {
    match &config.object {
        Some(path) => std::fs::read(path).map_err(pins::file_error(path)),
        None => Ok(OBJECT.to_vec()),
    }
}

/// Loads maps and classifiers, and shares maps that are pinned already. `id` is the link's identity for programs that
/// sit inside a pod.
pub(super) fn load(object: &[u8], pins: &Pins, logs: bool, id: Option<u32>) -> Result<Programs, DatapathError> {
    let mut loader = EbpfLoader::new();
    let level = if logs { DEBUG } else { OFF };
    loader.override_global(aya_log::LEVEL, &level, true);
    if !logs {
        // One page, the minimum.
        loader.map_max_entries(LOGS, 4096);
    }
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
    if let Some(id) = &id {
        loader.override_global("LINK_ID", id, true);
    }
    let mut programs = Programs(loader.load(object)?);
    let names: &[_] = if id.is_some() { &[FROM_POD, TO_POD] } else { &[FROM_POD, TO_POD, UPLINK, UPLINK_OUT] };
    for name in names {
        programs.classifier(name)?.load().map_err(refused(name))?;
    }
    Ok(programs)
}

fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> DatapathError {
    move |source| DatapathError::Program { program, source }
}
