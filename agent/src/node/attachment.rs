//! A container's interface, and which link it is.

use std::collections::HashMap;

use holdfast_core::id::{ContainerId, IfIndex, IfName, PodName};
use holdfast_net::HostLink;
use parking_lot::Mutex;

/// An interface of a container: what the CNI specification calls an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) pod: PodName,
    pub(super) container: ContainerId,
    /// The interface's name in the pod.
    pub(super) interface: IfName,
}

impl Attachment {
    /// Returns the attachment that a link of the node was made for. None: its alias had no room for the pod's name.
    pub(super) fn of_link(link: HostLink) -> Option<Self> {
        Some(Self { pod: link.pod?, container: link.container, interface: link.ifname })
    }
}

/// The attachments by link, as far as they are known. Links on the node say in their alias whose they are, too, at the
/// cost of a list; links inside of pods do not.
#[derive(Debug, Default)]
pub(super) struct AttachmentRegistry(Mutex<HashMap<IfIndex, Attachment>>);

impl AttachmentRegistry {
    pub(super) fn get(&self, link: IfIndex) -> Option<Attachment> {
        self.0.lock().get(&link).cloned()
    }

    pub(super) fn insert(&self, link: IfIndex, attachment: Attachment) {
        self.0.lock().insert(link, attachment);
    }

    pub(super) fn remove(&self, link: IfIndex) {
        self.0.lock().remove(&link);
    }

    /// Returns the first attachment, in no order, that is as asked for.
    pub(super) fn find(&self, is_wanted: impl Fn(&Attachment) -> bool) -> Option<Attachment> {
        self.0.lock().values().find(|attachment| is_wanted(attachment)).cloned()
    }
}
