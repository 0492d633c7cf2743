//! A ring of real processes under load, broken on purpose: `cargo test -p peernet-e2e --test processes -- --nocapture`.
//! No cluster is needed; what needs root says so and is skipped without.
//!
//! In each test the judges are the same, see [`peernet_e2e::processes::trial`].

mod crashes;
mod disks;
mod faults;
mod sleep;
mod volumes;

/// Longer than any test: copies are rebuilt elsewhere only for those who stay away.
const PATIENT: u64 = 600;
/// Copies are rebuilt soon after a peer went away, but not when a busy machine keeps it from answering for a moment.
const IMPATIENT: u64 = 5;
