//! The state that all handles of one guard share.

use std::collections::HashSet;

use holdfast_core::id::{IfIndex, IfName};

use crate::{hook::Hook, load::Programs, maps::Maps, pins::Pins};

/// The programs, the maps and the links that the guard sits on.
pub(super) struct State {
    pub(super) pins: Pins,
    pub(super) hook: Hook,
    pub(super) object: Vec<u8>,
    pub(super) programs: Programs,
    pub(super) maps: Maps,
    /// Links known to carry their programs, so that attaching again costs nothing.
    pub(super) attached: HashSet<(IfIndex, IfName)>,
    pub(super) watches_sandboxes: bool,
    pub(super) logs: bool,
}
