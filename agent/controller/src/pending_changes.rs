//! The changes that the watches saw and no reconciliation has taken yet. Each object is in the set once, however often it
//! changed, so the set is never larger than the number of objects.

use std::collections::HashSet;

use holdfast_core::id::PodName;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// An object that was created, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Endpoint(PodName),
    Claim(String),
    Pod(PodName),
    StatefulSet(PodName),
    Node(String),
    Pool(String),
    /// Any of the reserved addresses.
    Reserved,
}

/// The changes that one reconciliation works on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangeBatch {
    /// True if any object may have changed, as after a new list.
    pub(crate) everything: bool,
    pub(crate) changes: HashSet<Change>,
}

/// The set of pending changes. The watches add, the reconciler takes.
#[derive(Debug, Default)]
pub(crate) struct PendingChanges {
    waiting: Mutex<ChangeBatch>,
    notify: Notify,
}

impl PendingChanges {
    pub(crate) fn add(&self, change: Change) {
        let mut waiting = self.waiting.lock();
        if !waiting.everything {
            waiting.changes.insert(change);
        }
        drop(waiting);
        self.notify.notify_one();
    }

    pub(crate) fn add_everything(&self) {
        *self.waiting.lock() = ChangeBatch { everything: true, changes: HashSet::new() };
        self.notify.notify_one();
    }

    /// Removes and returns all pending changes.
    pub(crate) fn take(&self) -> ChangeBatch {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// Waits until a change was added since the last call returned. It may be taken already.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_includes_each_single_change() {
        let changes = PendingChanges::default();
        changes.add(Change::Claim("a".into()));
        changes.add(Change::Claim("a".into()));
        assert_eq!(changes.take().changes.len(), 1);
        changes.add(Change::Claim("a".into()));
        changes.add_everything();
        changes.add(Change::Claim("b".into()));
        assert_eq!(changes.take(), ChangeBatch { everything: true, changes: HashSet::new() });
        assert_eq!(changes.take(), ChangeBatch::default());
    }
}
