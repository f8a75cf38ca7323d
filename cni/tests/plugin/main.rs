//! The plugin executed as by a runtime, with an environment, a configuration on stdin and a fake agent. Needs no root
//! and no network.

mod errors;
mod harness;
mod verbs;
