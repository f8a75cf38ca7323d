//! The settings that an operator chooses.

use std::time::Duration;

use holdfast_core::{
    collect::{Cooldowns, Policy},
    election::LeaseTimings,
};

/// The settings of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// True if leaked endpoints and claims are collected. Pools' statuses and finalizers are written either way.
    pub collect: bool,
    /// The cooldowns of claims.
    pub cooldowns: Cooldowns,
    /// The treatment of pods that outlive their grace period.
    pub policy: Policy,
    /// True if the pods of StatefulSets keep their addresses.
    pub stateful_set: bool,
    /// The interval between two full scans.
    pub full_scan: Duration,
    /// The identity of this replica in the leader election, unique among the replicas.
    pub identity: String,
    /// The namespace of the Lease.
    pub namespace: String,
    /// The timings of the leader election.
    pub lease_timings: LeaseTimings,
}
