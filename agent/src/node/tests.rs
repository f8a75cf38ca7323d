//! The verbs, the driver and the reconciler against a node in memory.
//!
//! Time is paused: a test waits for nothing, and whatever a pause of the node would lead to has happened after
//! [`World::settle`].
//!
//! Each event and each action of the binding machine is carried out once here, and once against the kernel in `driver`, a
//! target of the crate `holdfast-tests`:
//!
//! | event | here | against the kernel |
//! |---|---|---|
//! | `Bind` | `add` | all |
//! | `Reassigned` | `add`: a delegate's ADD | `a_delegates_interface_is_guarded_and_older_sandboxes_are_silenced` |
//! | `Detaching`, `Detached` | `del` | `del_leaves_neither_link_nor_guard` |
//! | `Violation`: `Foreign`, `Mac` | `events` | `violations_are_reported_and_a_rightful_holder_keeps_its_address` |
//! | `Violation`: `Stale` | `events` | `an_older_sandbox_is_fenced_and_reported` |
//! | `Violation`: a lease's end | `events` | `an_address_whose_lease_has_run_out_is_reported` |
//! | `Conflict` | `events` | `another_machines_claim_is_reported` |
//! | `SandboxExited` | `sandbox_exit` | `a_dead_sandbox_is_collected` |
//! | `Observed` | `events` | all with `Verify` |
//!
//! | action | here | against the kernel |
//! |---|---|---|
//! | `MakeCurrent`, `MakeStale` | `add`, `del`, `events` | `an_older_sandbox_is_fenced_and_reported` |
//! | `Verify` | `events` | `a_live_sandbox_of_a_record_that_lags_behind_is_rebound` |
//! | `Rebind` | `events` | `a_live_sandbox_of_a_record_that_lags_behind_is_rebound` |
//! | `Collect` | `sandbox_exit` | `a_dead_sandbox_is_collected` |
//! | `Withdraw` | `events` | `a_container_whose_pod_moved_on_is_withdrawn` |
//! | `Report` | `events` | `violations_are_reported_and_a_rightful_holder_keeps_its_address` |
//!
//! Against a cluster: `death` (exits, rebinds), `stale` (fencing, modes), `guard` (foreign addresses), `conflict`, `delegate`
//! (interfaces of other plugins), `restart` and `crash` (adoption).

mod add;
mod check;
mod del;
mod events;
mod gc;
mod guard_events;
mod locks;
mod reconcile;
mod sandbox_exit;
mod world;
