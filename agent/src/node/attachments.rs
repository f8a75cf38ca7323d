//! The CNI verbs. Each is in a file of its own: [`add`](super::add), [`del`](super::del),
//! [`check`](super::check), [`status`](super::status), [`gc`](super::gc).

use super::{backend::Backends, driver::GuardDriver};

/// The CNI verbs: interfaces and addresses of containers. Cheap to clone.
#[derive(Clone)]
pub struct Attachments {
    pub(super) backends: Backends,
    pub(super) driver: GuardDriver,
}

impl Attachments {
    /// Returns the verbs over the backends of a driver.
    pub(super) fn new(driver: GuardDriver) -> Self {
        Self { backends: driver.backends.clone(), driver }
    }
}
