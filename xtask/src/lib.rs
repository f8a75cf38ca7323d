//! The project's tasks as a library, so that tests and the demo drive the same laboratory as the command line.

pub mod bench;
pub mod build_ebpf;
pub mod cache;
mod cargo;
pub mod cluster;
pub mod crdgen;
pub mod demo;
pub mod deploy;
pub mod helm;
pub mod image;
pub mod lab;
pub mod lab_command;
pub mod progress;
pub mod setup;
pub mod test;
pub mod vm;
