//! The controller of `PeerNetwork` resources.
//!
//! Each cycle ([`reconcile`]) reads as its steps, one module each: [`observe`] what is, validate it, [`plan`] what to do,
//! [`build`] the objects, [`apply`] them, tell the peers ([`drain`]), and answer in the [`status`]. `plan` and `build` are
//! pure. The operator remembers nothing between cycles.

#![forbid(unsafe_code)]

pub mod apply;
pub mod build;
mod causes;
pub mod drain;
pub mod events;
mod health;
pub mod lease;
pub mod names;
pub mod observe;
pub mod peers;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod status;
pub mod wire;
