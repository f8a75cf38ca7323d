//! The guard on the real kernel.

mod adoption;
mod holders;
mod inside;
mod limits;
mod logs;
mod parser;
mod uplink;
mod verdicts;
