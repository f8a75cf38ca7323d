//! The errors between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError, tc::TcError},
};
use holdfast_core::id::{IfIndex, IfName};

/// An error of the guard.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// Pins need a BPF file system.
    #[error(
        "{path} is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf), or give the agent's pod the host's /sys/fs/bpf"
    )]
    NotBpffs {
        /// The folder asked for.
        path: PathBuf,
    },
    /// The maps are another version's.
    #[error(
        "the maps pinned under {path} have layout {found}, this agent has layout {expected}: run the agent they belong to, or drain the node and remove {path}"
    )]
    Layout {
        /// The folder with the pins.
        path: PathBuf,
        /// The layout found.
        found: String,
        /// The layout of this agent.
        expected: u16,
    },
    /// A file or folder of the pins, or the object file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused the object.
    #[error("loading the guard: {0}")]
    Load(#[from] EbpfError),
    /// The object lacks a program.
    #[error("the guard's object has no {0}")]
    Missing(&'static str),
    /// The kernel refused a program; the text holds the verifier's log.
    #[error("program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's error.
        source: ProgramError,
    },
    /// Reading or writing a map.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's error.
        source: MapError,
    },
    /// Pinning.
    #[error("pinning {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The kernel's error.
        source: PinError,
    },
    /// There is no such interface.
    #[error("there is no interface {name} with index {link}")]
    NoInterface {
        /// Its name.
        name: IfName,
        /// Its index.
        link: IfIndex,
    },
    /// The programs could not be put on an interface.
    #[error("attaching {program} to {name}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface, or the pin that should have led to it.
        name: String,
        /// The kernel's error.
        source: ProgramError,
    },
    /// The link between a program and what it is attached to.
    #[error("the link of {program} on {name}: {source}")]
    Link {
        /// The program.
        program: &'static str,
        /// The interface, the pin that should have led to it, or the tracepoint.
        name: String,
        /// The kernel's error.
        source: LinkError,
    },
    /// The clsact qdisc of an interface.
    #[error("the clsact qdisc of {name}: {source}")]
    Qdisc {
        /// The interface.
        name: IfName,
        /// The kernel's error.
        source: TcError,
    },
    /// Two thousand million links inside pods have had the guard.
    #[error("the numbers of links inside pods are used up: drain the node and restart it")]
    Numbers,
    /// A network namespace could not be entered.
    #[error("entering a pod's network namespace: {0}")]
    Netns(io::Error),
    /// A record of the ring of another version. It was skipped.
    #[error("an event of {length} bytes is not of layout {expected}", expected = holdfast_abi::LAYOUT_VERSION)]
    Event {
        /// Its size.
        length: usize,
    },
    /// The programs' log.
    #[error("map {map}: {source}")]
    Logs {
        /// The ring.
        map: &'static str,
        /// The log reader's error.
        source: aya_log::Error,
    },
    /// Waiting for events.
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}
