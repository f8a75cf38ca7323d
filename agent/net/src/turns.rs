//! Who may work on a link, and when.
//!
//! An ADD that runs out of time is dropped by whoever asked for it, but what it had begun on a blocking thread goes
//! on, and the DEL that follows would overtake it: a link made, or a proxy set, after all of it was taken away. And the
//! kernel takes some 20 ms to unregister a pair, for which nobody waits but whoever wants to make a link of that name.
//! So each piece of work takes its place in the link's queue when it is asked for, and keeps it until it is really done:
//!
//! ```text
//!   making    waits for everything before it
//!   removing  waits for what makes; removals that were asked for earlier are no hindrance
//! ```

use std::sync::{Arc, Condvar, Mutex};

use holdfast_core::id::IfName;

use super::{NODE, lock, netlink::Socket, veth};

/// What is done to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// It is made, configured or exposed.
    Make,
    /// It is withdrawn or deleted.
    Remove,
}

/// The places taken, oldest first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    number: u64,
    link: IfName,
    work: Work,
}

impl Queue {
    /// Whether a place has to wait for another.
    fn blocks(&self, place: &Place) -> bool {
        let before = |other: &Place| other.link == place.link && other.number < place.number;
        self.places.iter().any(|other| before(other) && (place.work == Work::Make || other.work == Work::Make))
    }
}

impl Turns {
    /// Takes a place. To be called where the work is asked for, not where it is done: the order is that of the asking.
    pub(super) fn take(self: &Arc<Self>, link: &IfName, work: Work) -> Turn {
        let mut queue = lock(&self.queue);
        queue.next += 1;
        let place = Place { number: queue.next, link: link.clone(), work };
        queue.places.push(place.clone());
        Turn { turns: self.clone(), place }
    }

    /// Waits until nobody has a place.
    pub(super) fn wait_for_all(&self) {
        drop(self.left.wait_while(lock(&self.queue), |queue| !queue.places.is_empty()));
    }
}

/// A place in a link's queue. However the work ends, dropping this lets those go on who wait for it.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    place: Place,
}

impl Turn {
    /// Waits for those before.
    pub(super) fn wait(&self) {
        drop(self.turns.left.wait_while(lock(&self.turns.queue), |queue| queue.blocks(&self.place)));
    }

    /// Unregisters the link. Nobody is there any more to hear of a failure, so it goes to the log; the link is found
    /// again by the next comparison of links with endpoints.
    pub(super) fn finish(self, index: u32) {
        if let Err(error) = Socket::open(NODE).and_then(|node| veth::remove(&node, index)) {
            tracing::warn!(link = %self.place.link, %error, "a pod's link could not be removed");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.turns.queue).places.retain(|place| place.number != self.place.number);
        self.turns.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(turn: &Turn) -> bool {
        lock(&turn.turns.queue).blocks(&turn.place)
    }

    #[test]
    fn making_waits_for_all_and_removing_for_making() {
        let turns = Arc::<Turns>::default();
        let (one, two): (IfName, IfName) = ("hf1".parse().unwrap(), "hf2".parse().unwrap());
        let make = turns.take(&one, Work::Make);
        let remove = turns.take(&one, Work::Remove);
        let again = turns.take(&one, Work::Remove);
        let anew = turns.take(&one, Work::Make);
        let other = turns.take(&two, Work::Make);
        assert_eq!([&make, &remove, &again, &anew, &other].map(waits), [false, true, true, true, false]);
        drop(make);
        assert_eq!([&remove, &again, &anew].map(waits), [false, false, true]);
        drop(again);
        assert!(waits(&anew), "the first removal still goes on");
        drop(remove);
        assert!(!waits(&anew));
        drop((anew, other));
        turns.wait_for_all();
    }
}
