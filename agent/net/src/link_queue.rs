//! The order in which operations work on a link.
//!
//! The runtime gives up on an ADD that runs out of time, but its work on a blocking thread goes on. A DEL that follows
//! would overtake it, and a link or a proxy would be made after the DEL has removed all of them. And the kernel takes
//! some 20 ms to unregister a veth pair; only an ADD that makes a link of the same name has to wait for that. So each
//! operation takes a ticket in the link's queue when it is requested, and keeps it until its work has ended:
//!
//! ```text
//!   setup     waits for all operations before it
//!   teardown  waits for setups before it, not for teardowns
//! ```

use std::sync::Arc;

use holdfast_core::id::IfName;
use parking_lot::{Condvar, Mutex};

use super::{
    netlink::{NODE, Socket},
    veth,
};

/// The kind of an operation on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// The link is created, configured or advertised.
    Setup,
    /// The link is withdrawn or deleted.
    Teardown,
}

/// The queues of all links.
#[derive(Debug, Default)]
pub(super) struct LinkQueue {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Oldest first.
    tickets: Vec<Ticket>,
}

#[derive(Debug, Clone)]
struct Ticket {
    number: u64,
    link: IfName,
    operation: Operation,
}

impl State {
    /// Returns true if an operation has to wait for one before it.
    fn is_blocked(&self, ticket: &Ticket) -> bool {
        let is_setup = |ticket: &Ticket| ticket.operation == Operation::Setup;
        let is_before = |other: &Ticket| other.link == ticket.link && other.number < ticket.number;
        self.tickets.iter().any(|other| is_before(other) && (is_setup(ticket) || is_setup(other)))
    }
}

impl LinkQueue {
    /// Takes a ticket. Call it where the operation is requested, not on the thread that carries it out: tickets are in
    /// the order of the requests.
    pub(super) fn enqueue(self: &Arc<Self>, link: &IfName, operation: Operation) -> LinkLock {
        let mut state = self.state.lock();
        state.next += 1;
        let ticket = Ticket { number: state.next, link: link.clone(), operation };
        state.tickets.push(ticket.clone());
        LinkLock { queue: self.clone(), ticket }
    }

    /// Waits until no operation is under way on any link.
    pub(super) fn wait_idle(&self) {
        self.released.wait_while(&mut self.state.lock(), |state| !state.tickets.is_empty());
    }
}

/// A ticket in a link's queue. Dropping it lets the operations behind it go on.
#[derive(Debug)]
pub(super) struct LinkLock {
    queue: Arc<LinkQueue>,
    ticket: Ticket,
}

impl LinkLock {
    /// Blocks until the operations before this one have ended.
    pub(super) fn wait(&self) {
        self.queue.released.wait_while(&mut self.queue.state.lock(), |state| state.is_blocked(&self.ticket));
    }

    /// Deletes the link, then drops the ticket. The caller has had its reply, so a failure is logged only; the agent's
    /// next reconciliation of links with endpoints finds the link again.
    pub(super) fn delete_link(self, index: u32) {
        if let Err(error) = Socket::open(NODE).and_then(|node| veth::remove(&node, index)) {
            tracing::warn!(link = %self.ticket.link, %error, "a pod's link could not be deleted; the next reconciliation finds it again");
        }
    }
}

impl Drop for LinkLock {
    fn drop(&mut self) {
        self.queue.state.lock().tickets.retain(|ticket| ticket.number != self.ticket.number);
        self.queue.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked(lock: &LinkLock) -> bool {
        lock.queue.state.lock().is_blocked(&lock.ticket)
    }

    #[test]
    fn setup_waits_for_all_and_teardown_for_setup() {
        let queue = Arc::<LinkQueue>::default();
        let (one, two): (IfName, IfName) = ("hf1".parse().unwrap(), "hf2".parse().unwrap());
        let add = queue.enqueue(&one, Operation::Setup);
        let del = queue.enqueue(&one, Operation::Teardown);
        let second_del = queue.enqueue(&one, Operation::Teardown);
        let next_add = queue.enqueue(&one, Operation::Setup);
        let other = queue.enqueue(&two, Operation::Setup);
        assert_eq!([&add, &del, &second_del, &next_add, &other].map(is_blocked), [false, true, true, true, false]);
        drop(add);
        assert_eq!([&del, &second_del, &next_add].map(is_blocked), [false, false, true]);
        drop(second_del);
        assert!(is_blocked(&next_add), "the first teardown has not ended");
        drop(del);
        assert!(!is_blocked(&next_add));
        drop((next_add, other));
        queue.wait_idle();
    }
}
