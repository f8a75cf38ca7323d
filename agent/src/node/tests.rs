//! The verbs, the driver and the reconciler against a node in memory.
//!
//! Time is paused: a test waits for nothing, and whatever a pause of the node would lead to has happened after
//! [`World::settle`].
//!
//! Each event and each action of the binding machine is carried out once here, and once against the kernel:
//!
//! | event, action | here | against the kernel |
//! |---|---|---|

mod add;
mod check;
mod del;
mod events;
mod gc;
mod guard_events;
mod reconcile;
mod sandbox_exit;
mod world;
