//! The guard on the real kernel.

mod adoption;
mod flood;
mod holders;
mod inside;
mod limits;
mod logs;
mod parser;
mod shared;
mod switch;
mod uplink;
mod verdicts;
