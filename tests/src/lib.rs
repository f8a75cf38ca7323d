//! The code that the tests share, one module for each layer; the tests themselves are in `tests/`.

pub mod frames;
pub mod guarded;
pub mod netns;
pub mod packet_socket;
pub mod programs;
