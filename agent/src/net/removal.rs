//! Links on their way out. The kernel takes some 20 ms to unregister a pair; nobody waits for that but whoever
//! wants to make a link of the same name.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex},
};

use holdfast_core::id::IfName;

use super::{NODE, lock, netlink::Socket, veth};

/// The host ends that are being removed.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// How many removals of the name there are: a repeated DEL begins one more.
    names: Mutex<HashMap<IfName, usize>>,
    left: Condvar,
}

impl Leaving {
    /// From now until the removal is dropped, the name is leaving.
    pub(super) fn begin(self: &Arc<Self>, name: IfName) -> Removal {
        *lock(&self.names).entry(name.clone()).or_default() += 1;
        Removal { leaving: self.clone(), name }
    }

    /// Waits until a link of this name is not leaving any more.
    pub(super) fn wait_for(&self, name: &IfName) {
        drop(self.left.wait_while(lock(&self.names), |names| names.contains_key(name)));
    }

    /// Waits until none is.
    pub(super) fn wait_for_all(&self) {
        drop(self.left.wait_while(lock(&self.names), |names| !names.is_empty()));
    }
}

/// A link whose removal has begun. However it ends, dropping this lets those go on who wait for the name.
#[derive(Debug)]
pub(super) struct Removal {
    leaving: Arc<Leaving>,
    name: IfName,
}

impl Removal {
    /// Removes the link. Nobody is there any more to hear of a failure, so it goes to the log; the link is found
    /// again by the next comparison of links with endpoints.
    pub(super) fn finish(self, index: u32) {
        if let Err(error) = Socket::open(NODE).and_then(|node| veth::remove(&node, index)) {
            tracing::warn!(link = %self.name, %error, "a pod's link could not be removed");
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        let mut names = lock(&self.leaving.names);
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
        }
        names.retain(|_, count| *count > 0);
        drop(names);
        self.leaving.left.notify_all();
    }
}
