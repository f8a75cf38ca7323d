//! What the watches saw change and nobody has looked at yet. Each object stands there once, however often it changed,
//! so there is never more than there are objects.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use holdfast_core::id::PodName;
use tokio::sync::Notify;

/// An object that changed, came or went.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Change {
    Endpoint(PodName),
    Claim(String),
    Pod(PodName),
    Set(PodName),
    Node(String),
    Pool(String),
    /// Any of the reserved addresses.
    Reserved,
}

/// A batch of changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChangeBatch {
    /// Whether anything may have changed, as after a new list.
    pub(super) everything: bool,
    pub(super) changes: HashSet<Change>,
}

#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    waiting: Mutex<ChangeBatch>,
    notify: Notify,
}

impl PendingChanges {
    pub(super) fn add(&self, change: Change) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.everything {
            waiting.changes.insert(change);
        }
        self.notify.notify_one();
    }

    pub(super) fn add_everything(&self) {
        let all = ChangeBatch { everything: true, changes: HashSet::new() };
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.notify.notify_one();
    }

    /// Takes what is waiting.
    pub(super) fn take(&self) -> ChangeBatch {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there may be something.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_covers_each_change() {
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
