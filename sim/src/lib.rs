//! A deterministic world for PeerNet's peers: a virtual clock, network and disk, everything random from one seed.
//!
//! The real [`peernet_core::peer::Peer`] runs unchanged, hundreds of times faster than by the clock. What surrounds it
//! in production (the daemon's driver, its writing and reading of files, the operator) is acted out here, step for
//! step, over a network that delays, loses, repeats and reorders, and on disks that forget what was not synced.
//! A run is judged by [`model`] (is every answer that clients got a legal one?) and [`check`] (is the end state the one
//! wanted?). The same seed gives the same run, event by event; [`world::World::trace`] hashes all of them to prove it.
//!
//! Read it in this order: [`world`], [`network`], [`peer`], [`fleet`], [`client`], [`consumer`], [`cluster`], [`operator`],
//! [`model`], [`check`], [`scenario`].

#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod cluster;
pub mod consumer;
pub mod disk;
pub mod fleet;
pub mod model;
pub mod network;
pub mod operator;
pub mod peer;
pub mod promise;
pub mod scale;
pub mod scenario;
pub mod soak;
pub mod world;
