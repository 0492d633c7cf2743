//! Model checking: every state that a small network can reach, breadth first, with `stateright`.
//!
//! The models run the very functions that ship ([`peernet_core`]); only the network around them is modelled. A checker
//! that never objects proves nothing, so each model takes a [`ring::Variant`]: the protocol as it ships, or one of the
//! wrong ones (among them the original Chord), and the tests show that it tells them apart. What was checked, how large
//! it was and how short each counterexample is, is in docs/proofs.md.
//!
//! - [`collect`]: a chunk that a live file names, or that is being read, is never collected.
//! - [`forget`]: how a slot could forget a deletion; proposed, not built.
//! - [`leave`]: nothing acknowledged goes with a peer that leaves.
//! - [`names`]: a name is a linearizable register while its slot changes hands.
//! - [`ring`]: join, stabilise, rectify and fail keep the ring together.
//! - [`slot`]: no epoch of a slot has two configurations.

pub mod collect;
pub mod forget;
pub mod leave;
pub mod names;
pub mod report;
pub mod ring;
pub mod slot;
