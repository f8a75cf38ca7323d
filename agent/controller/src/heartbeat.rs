//! The state that the health endpoints report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::leader_election::Leadership;

/// The longest time that a reconciliation may take without finishing any object. Each request ends within less.
const STALLED: Duration = Duration::from_secs(60);

/// The state that the health endpoints report: caches, leadership and the progress of the leader's work.
pub struct Heartbeat {
    synced: AtomicBool,
    leadership: watch::Receiver<Leadership>,
    lease_duration: Duration,
    /// The time by which the next sign of progress is due; none while another replica leads.
    progress_due: Mutex<Option<Instant>>,
}

impl Heartbeat {
    pub(crate) fn new(leadership: watch::Receiver<Leadership>, lease_duration: Duration) -> Arc<Self> {
        let (synced, progress_due) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { synced, leadership, lease_duration, progress_due })
    }

    /// Fails until every cache has been filled.
    pub fn synced(&self) -> Result<(), String> {
        if self.synced.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("the watches have not listed everything yet".to_owned())
        }
    }

    /// Fails if the leader's work makes no progress. A replica that does not lead is in order.
    pub fn is_progressing(&self) -> Result<(), String> {
        let due = *self.progress_due.lock();
        match due.map(|due| due.elapsed()) {
            Some(late) if !late.is_zero() => {
                Err(format!("the reconciliation has made no progress for {:?}", STALLED + late))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the leader is not known, or the Lease was not read for its duration.
    pub fn leader_known(&self) -> Result<(), String> {
        let leadership = self.leadership.borrow();
        let age = leadership.observed.elapsed();
        match leadership.holder {
            Some(_) if age < self.lease_duration => Ok(()),
            Some(_) => Err(format!("the lease was not read for {age:?}")),
            None => Err("the lease has no holder yet".to_owned()),
        }
    }

    pub(crate) fn set_synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// Records that an object was finished.
    pub(crate) fn progress(&self) {
        self.idle_for(Duration::ZERO);
    }

    /// Records that there is nothing to do for this long.
    pub(crate) fn idle_for(&self, pause: Duration) {
        *self.progress_due.lock() = Some(Instant::now() + pause + STALLED);
    }

    /// Records that this replica does not lead: no progress is expected.
    pub(crate) fn stand_by(&self) {
        *self.progress_due.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leadership(holder: Option<&str>, observed: Instant) -> watch::Receiver<Leadership> {
        watch::channel(Leadership { until: None, holder: holder.map(str::to_owned), observed }).1
    }

    #[test]
    fn stalled_work_is_reported() {
        let now = Instant::now();
        let heartbeat = Heartbeat::new(leadership(None, now), Duration::from_secs(6));
        assert_eq!(heartbeat.is_progressing(), Ok(()), "another leads");
        heartbeat.progress();
        assert_eq!(heartbeat.is_progressing(), Ok(()));
        *heartbeat.progress_due.lock() = now.checked_sub(Duration::from_secs(1));
        assert!(heartbeat.is_progressing().unwrap_err().contains("61"), "{:?}", heartbeat.is_progressing());
        heartbeat.stand_by();
        assert_eq!(heartbeat.is_progressing(), Ok(()));
    }

    #[test]
    fn the_leader_is_known_while_the_lease_is_read() {
        let (now, duration) = (Instant::now(), Duration::from_secs(600));
        let error =
            |holder, observed| Heartbeat::new(leadership(holder, observed), duration).leader_known().unwrap_err();
        assert_eq!(Heartbeat::new(leadership(Some("one"), now), duration).leader_known(), Ok(()));
        assert!(error(None, now).contains("no holder"));
        assert!(error(Some("one"), now.checked_sub(duration).unwrap()).contains("not read"));
    }

    #[test]
    fn caches_are_synced_once_all_are_filled() {
        let heartbeat = Heartbeat::new(leadership(None, Instant::now()), Duration::from_secs(6));
        assert!(heartbeat.synced().is_err());
        heartbeat.set_synced();
        assert_eq!(heartbeat.synced(), Ok(()));
    }
}
