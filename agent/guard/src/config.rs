//! The configuration of the guard.

use std::path::PathBuf;

/// The place of the pins, and the way of loading and attaching.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of bpffs for all pins.
    pub bpffs: PathBuf,
    /// An object file to load in place of the embedded one.
    pub object: Option<PathBuf>,
    /// Whether the programs write log lines.
    pub logs: bool,
    /// Use a clsact qdisc even where the kernel has tcx.
    pub clsact: bool,
}

impl Config {
    /// Returns the configuration of the embedded object, pinned under `bpffs`, attached in the best way that the kernel has.
    /// The programs log if tracing's filter has the target `holdfast::guard` at debug level.
    pub fn new(bpffs: impl Into<PathBuf>) -> Self {
        let logs = tracing::enabled!(target: "holdfast::guard", tracing::Level::DEBUG);
        Self { bpffs: bpffs.into(), object: None, logs, clsact: false }
    }
}
