//! What the tests against a real cluster share, and those against processes on one machine ([`processes`]).
//!
//! A test is a [`cluster::scenario`]: it gets a namespace of its own, which is removed afterwards, and when it fails, the
//! logs and the state of everything in it are kept (see [`dump`]). Tests talk to the API server as a user does, and to
//! the peers at their pods' addresses, over gRPC and REST.
//!
//! What the peers answer is judged by pure functions with known-bad tests of their own, which need no cluster:
//! [`history::check`] (nothing acknowledged is lost), [`ring::one_ring`], [`drain::departed_hold_nothing`] and
//! [`copies::lacking`].

#![forbid(unsafe_code)]

pub mod census;
pub mod client;
pub mod cluster;
pub mod content;
pub mod copies;
pub mod departures;
pub mod drain;
pub mod dump;
pub mod files;
pub mod history;
pub mod kubectl;
pub mod load;
pub mod memory;
pub mod network;
pub mod patience;
pub mod peer;
pub mod processes;
pub mod recovery;
pub mod ring;
pub mod trial;
pub mod volumes;
