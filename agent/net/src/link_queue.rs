//! Who may work on a link, and when.
//!
//! An ADD that runs out of time is dropped by whoever asked for it, but what it had begun on a blocking thread goes
//! on, and the DEL that follows would overtake it: a link made, or a proxy set, after all of it was taken away. And the
//! kernel takes some 20 ms to unregister a pair, for which nobody waits but whoever wants to make a link of that name.
//! So each piece of work takes its ticket in the link's queue when it is asked for, and keeps it until it is really done:
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
pub(super) enum Operation {
    /// It is made, configured or advertised.
    Setup,
    /// It is withdrawn or deleted.
    Teardown,
}

/// The tickets taken, oldest first.
#[derive(Debug, Default)]
pub(super) struct LinkQueue {
    queue: Mutex<Queue>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    tickets: Vec<Ticket>,
}

#[derive(Debug, Clone)]
struct Ticket {
    number: u64,
    link: IfName,
    operation: Operation,
}

impl Queue {
    /// Whether a ticket has to wait for another.
    fn blocks(&self, ticket: &Ticket) -> bool {
        let before = |other: &Ticket| other.link == ticket.link && other.number < ticket.number;
        self.tickets
            .iter()
            .any(|other| before(other) && (ticket.operation == Operation::Setup || other.operation == Operation::Setup))
    }
}

impl LinkQueue {
    /// Takes a ticket. To be called where the work is asked for, not where it is done: the order is that of the asking.
    pub(super) fn enqueue(self: &Arc<Self>, link: &IfName, operation: Operation) -> LinkLock {
        let mut queue = lock(&self.queue);
        queue.next += 1;
        let ticket = Ticket { number: queue.next, link: link.clone(), operation };
        queue.tickets.push(ticket.clone());
        LinkLock { queue: self.clone(), ticket }
    }

    /// Waits until nobody has a ticket.
    pub(super) fn wait_idle(&self) {
        drop(self.left.wait_while(lock(&self.queue), |queue| !queue.tickets.is_empty()));
    }
}

/// A ticket in a link's queue. However the work ends, dropping this lets those go on who wait for it.
#[derive(Debug)]
pub(super) struct LinkLock {
    queue: Arc<LinkQueue>,
    ticket: Ticket,
}

impl LinkLock {
    /// Waits for those before.
    pub(super) fn wait(&self) {
        drop(self.queue.left.wait_while(lock(&self.queue.queue), |queue| queue.blocks(&self.ticket)));
    }

    /// Unregisters the link. Nobody is there any more to hear of a failure, so it goes to the log; the link is found
    /// again by the next comparison of links with endpoints.
    pub(super) fn delete_link(self, index: u32) {
        if let Err(error) = Socket::open(NODE).and_then(|node| veth::remove(&node, index)) {
            tracing::warn!(link = %self.ticket.link, %error, "a pod's link could not be removed");
        }
    }
}

impl Drop for LinkLock {
    fn drop(&mut self) {
        lock(&self.queue.queue).tickets.retain(|ticket| ticket.number != self.ticket.number);
        self.queue.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(held: &LinkLock) -> bool {
        lock(&held.queue.queue).blocks(&held.ticket)
    }

    #[test]
    fn making_waits_for_all_and_removing_for_making() {
        let queue = Arc::<LinkQueue>::default();
        let (one, two): (IfName, IfName) = ("hf1".parse().unwrap(), "hf2".parse().unwrap());
        let make = queue.enqueue(&one, Operation::Setup);
        let remove = queue.enqueue(&one, Operation::Teardown);
        let again = queue.enqueue(&one, Operation::Teardown);
        let anew = queue.enqueue(&one, Operation::Setup);
        let other = queue.enqueue(&two, Operation::Setup);
        assert_eq!([&make, &remove, &again, &anew, &other].map(waits), [false, true, true, true, false]);
        drop(make);
        assert_eq!([&remove, &again, &anew].map(waits), [false, false, true]);
        drop(again);
        assert!(waits(&anew), "the first removal still goes on");
        drop(remove);
        assert!(!waits(&anew));
        drop((anew, other));
        queue.wait_idle();
    }
}
