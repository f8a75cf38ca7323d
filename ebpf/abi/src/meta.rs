//! The layout version, and the entries of `META`.

/// The version of the layouts in this crate, which the agent stores in `META` beside the pinned maps.
pub const LAYOUT_VERSION: u16 = 1;

/// The index of [`LAYOUT_VERSION`] in `META`.
pub const META_LAYOUT: u32 = 0;

/// The index in `META` of the next identity of a link inside a pod; 0 before the first. It only grows: a reused
/// identity would assign the late events of one pod, and a filter left behind in it, to another pod.
pub const META_NEXT_INSIDE: u32 = 1;
