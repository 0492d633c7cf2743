//! What a peer decides, without doing any of it.
//!
//! [`peer::Peer`] is one state machine: inputs go in, outputs come out, time and randomness are passed in, and what has
//! to be remembered goes through the [`store::Store`] trait. It never sees a socket, a file, a clock or a wire format;
//! the daemon performs what is decided here, and the simulator drives thousands of these with a virtual clock.
//!
//! Read it in this order: [`key`] and [`member`] (nouns), [`slot`] (who holds what), [`peer`] (the dispatcher).

#![forbid(unsafe_code)]

pub mod boot;
pub mod chord;
pub mod collect;
pub mod config;
pub mod fingers;
pub mod flood;
pub mod index;
pub mod io;
pub mod key;
pub mod leave;
pub mod lookup;
pub mod member;
pub mod merkle;
pub mod message;
pub mod outbox;
pub mod peer;
pub mod placement;
pub mod preflight;
pub mod providers;
pub mod quorum;
pub mod reconfigure;
pub mod recover;
pub mod register;
pub mod ring;
pub mod share;
pub mod slot;
pub mod store;
pub mod swarm;
